"""The round loop: cohort → clients → aggregate → server step → evaluate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from fedpipe import shards
from fedpipe.aggregation import weighted_mean
from fedpipe.client import ClientReport, Task, Update, train_client
from fedpipe.datasets import Split
from fedpipe.engines import Map
from fedpipe.errors import UserError
from fedpipe.evaluation import Evaluation, evaluate
from fedpipe.models import Model, bytes_of
from fedpipe.params import Section, choice
from fedpipe.randomness import generator
from fedpipe.strategies import STRATEGIES, ServerState, Strategy
from fedpipe.training import Training


@choice("strategy", STRATEGIES)
class Federated(Section):
    """Federated training."""

    rounds: PositiveInt = 5
    clients_per_round: PositiveInt = 4
    strategy: str = "fedavg"
    local: Training = Training()

    @property
    def algorithm(self) -> Strategy:
        return self.chosen("strategy")


@dataclass(frozen=True)
class Round:
    """What a round did."""

    number: int  # 1, 2, ...
    clients: Sequence[ClientReport]  # the cohort's, in its order
    test: Evaluation  # of the new model
    bytes_down: int  # to all clients of the cohort
    bytes_up: int  # from them

    @property
    def examples(self) -> int:
        """The cohort's, n = Σ_k n_k."""
        return sum(client.examples for client in self.clients)

    def row(self) -> dict[str, Any]:
        """As in rounds.csv."""
        return {
            "round": self.number,
            "cohort": " ".join(str(client.client) for client in self.clients),
            "examples": self.examples,
            "train_loss": sum(client.examples * client.train_loss for client in self.clients) / self.examples,
            "test_loss": self.test.loss,
            "test_accuracy": self.test.accuracy,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


def run(
    state: ServerState,
    settings: Federated,
    model: Model,
    seed: int,
    shards_folder: Path,
    test: Split,
    map: Map,
    *,
    on_client: Callable[[ClientReport], None] = lambda report: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Rounds of federated training from a state on; yields after each.

    Args:
        state: round 0 with initial parameters, or one that this function yielded.
        shards_folder: as `fedpipe.shards.write` lays it out. The server reads sizes, only clients open shards.
        map: an engine's; runs the cohort's clients, and the parts of the test set, at the same time.
        on_client: told of each client as its update is taken, for progress.

    Raises:
        UserError: the cohort is larger than the population.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    clients = len(shards.read_sizes(shards_folder))
    if settings.clients_per_round > clients:
        raise UserError(
            f"params.yaml: federated.clients_per_round: {settings.clients_per_round} exceeds "
            f"the {clients} clients in {shards_folder}"
        )
    strategy = settings.algorithm
    client_update = partial(train_client, model=model, local=settings.local, seed=seed)

    for number in range(state.round + 1, settings.rounds + 1):
        cohort = draw_cohort(clients, settings.clients_per_round, generator(seed, "cohort", round=number))
        tasks = [Task(number, k, shards.path_of(shards_folder, k), state.parameters) for k in cohort]
        updates: list[Update] = []
        for update in map(client_update, tasks):
            updates.append(update)
            on_client(update.report)
        state = strategy.step(state, weighted_mean(updates))
        result = evaluate(model, state.parameters, test.images, test.labels, map=map)
        size = bytes_of(state.parameters)
        reports = [update.report for update in updates]
        yield state, Round(number, reports, result, bytes_down=len(cohort) * size, bytes_up=len(cohort) * size)


def draw_cohort(clients: int, size: int, rng: np.random.Generator) -> list[int]:
    """`size` different clients of 0..clients-1, each as likely as the other; ascending, the order of all sums."""
    return sorted(rng.choice(clients, size, replace=False).tolist())
