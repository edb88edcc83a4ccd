"""The round loop: cohort → clients → aggregate → server step → evaluate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from fedpipe import datasets, shards
from fedpipe.aggregation import weighted_mean
from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.client import ClientReport, Task, Update, train_client
from fedpipe.engines import Map
from fedpipe.errors import UserError
from fedpipe.evaluation import CHUNK, Evaluation, Part, evaluate_part
from fedpipe.models import Model, Parameters, bytes_of
from fedpipe.params import Section, choice
from fedpipe.randomness import generator
from fedpipe.strategies import STRATEGIES, ServerState, Strategy
from fedpipe.training import Training

TEST_PART = 5 * CHUNK  # test examples a worker evaluates at a time


@choice("strategy", STRATEGIES)
class Federated(Section):
    """Federated training."""

    rounds: PositiveInt = 5
    clients_per_round: PositiveInt = 4
    strategy: str = "fedavg"
    local: Training = Training()
    evaluate_every: PositiveInt = 1
    evaluate_clients: bool = True

    @property
    def algorithm(self) -> Strategy:
        return self.chosen("strategy")


@dataclass(frozen=True)
class TestTask:
    """A part of the test set to evaluate: examples start..stop-1."""

    __test__ = False  # no test of pytest's

    start: int
    stop: int


@dataclass(frozen=True)
class Work:
    """What a worker does with the round's parameters: trains a client, or evaluates on a part of the test set.

    Of settings and paths alone: a worker reads the data where it lies.
    """

    settings: Federated
    model: Model
    seed: int
    test: Path  # as `fedpipe.datasets.save` writes it
    arithmetic: Arithmetic = PLAIN

    def __call__(self, parameters: Parameters, task: Task | TestTask) -> Update | Part:
        if isinstance(task, Task):
            return train_client(
                task, parameters, model=self.model, local=self.settings.local, seed=self.seed,
                evaluates=self.settings.evaluate_clients, arithmetic=self.arithmetic,
            )  # fmt: skip
        test = datasets.load_to(self.arithmetic.torch_device(), self.test)
        part = slice(task.start, task.stop)
        return evaluate_part(self.model, parameters, test.images[part], test.labels[part])


@dataclass(frozen=True)
class Round:
    """What a round did."""

    number: int  # 1, 2, ...
    clients: Sequence[ClientReport]  # the cohort's, in its order
    test: Evaluation | None  # of the new model; None in a round that is not evaluated
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
            "test_loss": self.test and self.test.loss,
            "test_accuracy": self.test and self.test.accuracy,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


def run(
    state: ServerState,
    settings: Federated,
    seed: int,
    population: Sequence[shards.Shard],
    test_examples: int,
    map: Map,
    *,
    on_client: Callable[[ClientReport], None] = lambda report: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Rounds of federated training from a state on; yields after each.

    Args:
        state: round 0 with initial parameters, or one that this function yielded.
        population: where each client's shard lies. The server knows its size, only clients open it.
        test_examples: how many there are.
        map: an engine's, started with the `Work` of these settings: runs the cohort's clients, and the parts of the
            test set, at the same time.
        on_client: told of each client as its update is taken, for progress.

    Raises:
        UserError: the cohort is larger than the population.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    if settings.clients_per_round > len(population):
        raise UserError(
            f"params.yaml: federated.clients_per_round: {settings.clients_per_round} exceeds "
            f"the {len(population)} clients of the partition"
        )
    strategy = settings.algorithm
    test = [TestTask(at, min(at + TEST_PART, test_examples)) for at in range(0, test_examples, TEST_PART)]

    for number in range(state.round + 1, settings.rounds + 1):
        cohort = draw_cohort(len(population), settings.clients_per_round, generator(seed, "cohort", round=number))
        reports: list[ClientReport] = []

        updates = map(state.parameters, (Task(number, k, population[k]) for k in cohort))
        state = strategy.step(state, weighted_mean(_noted(updates, reports, on_client)))
        evaluated = number % settings.evaluate_every == 0 or number == settings.rounds
        result = Evaluation.of(map(state.parameters, test)) if evaluated else None
        size = bytes_of(state.parameters)
        yield state, Round(number, reports, result, bytes_down=len(cohort) * size, bytes_up=len(cohort) * size)


def _noted(
    updates: Iterable[Update], reports: list[ClientReport], on_client: Callable[[ClientReport], None]
) -> Iterator[Update]:
    for update in updates:
        reports.append(update.report)
        on_client(update.report)
        yield update


def draw_cohort(clients: int, size: int, rng: np.random.Generator) -> list[int]:
    """`size` different clients of 0..clients-1, each as likely as the other; ascending, the order of all sums."""
    return sorted(rng.choice(clients, size, replace=False).tolist())
