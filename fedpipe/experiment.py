"""An experiment, and the one way to run it: stages, benchmarks and tests all go through here."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import Field

from fedpipe.config.section import Section, Seed
from fedpipe.data import datasets
from fedpipe.data.store import open_store
from fedpipe.engines import Compute
from fedpipe.federated.client import Client
from fedpipe.federated.rounds import OnClients, Round, run_rounds
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ServerState
from fedpipe.federated.testing import EvaluateParts, parts
from fedpipe.models import ModelChoice
from fedpipe.models.parameters import Parameters, initial_parameters
from fedpipe.training.evaluation import Evaluation


class Experiment(Section):
    """A federated training: all that its result follows from, and how it is computed."""

    seed: Seed = 42
    model: ModelChoice = Field(default=ModelChoice(), description="The network that is trained.")
    federated: Federated = Field(default=Federated(), description="Federated training.")
    compute: Compute = Field(default=Compute(), description="How and where it is computed.")


@dataclass(frozen=True)
class FederatedData:
    """Where an experiment's data lies."""

    dataset: Path  # a folder with dataset.json and test.safetensors, as `fedpipe.data.datasets.save` writes them
    clients: Path  # a folder of clients' examples, as `fedpipe.data.store.write` writes it


@dataclass(frozen=True)
class Result:
    """What an experiment came to."""

    dataset: str  # its name
    classes: int
    state: ServerState
    rounds: tuple[Round, ...]

    @property
    def test(self) -> Evaluation:
        """The last model's evaluation on the test set."""
        test = self.rounds[-1].test
        assert test is not None, "the last round is evaluated, whatever evaluate_every"
        return test

    def round_rows(self) -> list[dict[str, Any]]:
        """Return the rows of rounds.csv."""
        processed = accumulate(round.examples_processed for round in self.rounds)
        return [round.row() | {"examples_processed": n} for round, n in zip(self.rounds, processed, strict=True)]

    def client_rows(self) -> list[dict[str, Any]]:
        """Return the rows of clients.csv."""
        return [vars(client) for round in self.rounds for client in round.clients]

    def metrics(self) -> dict[str, Any]:
        """Return the figures that experiments are compared by."""
        return {
            "dataset": self.dataset,
            "accuracy": self.test.accuracy,
            "loss": self.test.loss,
            "rounds": len(self.rounds),
            "skipped_rounds": sum(round.skipped for round in self.rounds),
            "examples_processed": sum(round.examples_processed for round in self.rounds),
            "bytes_down": sum(round.bytes_down for round in self.rounds),
            "bytes_up": sum(round.bytes_up for round in self.rounds),
        }


def run(
    experiment: Experiment,
    data: FederatedData,
    *,
    states: Path | None = None,
    on_round: Callable[[ServerState, Round], None] = lambda state, done: None,
    on_clients: OnClients = lambda reports: None,
) -> Result:
    """Run an experiment to its end.

    Args:
        experiment: its parameters.
        data: its data.
        states: as in `iterate`.
        on_round: told of each round and the state after it.
        on_clients: told of clients as their updates arrive.

    Raises:
        UserError: the data is missing or damaged, a parameter does not fit the data, or the engine does not work here.
    """
    state, rounds = None, []
    for state, round in iterate(experiment, data, states=states, on_clients=on_clients):
        on_round(state, round)
        rounds.append(round)
    assert state is not None, "there is at least one round"
    description = datasets.describe(data.dataset / "dataset.json")
    return Result(description.name, description.classes, state, tuple(rounds))


def iterate(
    experiment: Experiment,
    data: FederatedData,
    *,
    state: ServerState | None = None,
    states: Path | None = None,
    on_clients: OnClients = lambda reports: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Run an experiment round by round: yield the state after each round, and what the round did.

    Args:
        experiment: its parameters.
        data: its data.
        state: one that this function yielded, to go on from; None begins.
        states: a folder for clients' own states, which all machines must see. A run can go on from a state only with
            the folder as it was left. None takes a temporary folder of this machine.
        on_clients: told of clients as their updates arrive.

    Raises:
        UserError: as `run`.
    """
    description = datasets.describe(data.dataset / "dataset.json")
    architecture = experiment.model.model.for_classes(description.classes)
    store, test = open_store(data.clients.resolve()), (data.dataset / "test.safetensors").resolve()
    with ExitStack() as stack:
        if states is None:
            states = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedpipe-")))
        client = Client(
            experiment.federated, architecture, experiment.seed, data.clients.resolve(), states.resolve(),
            experiment.compute,
        )  # fmt: skip
        run_tasks = stack.enter_context(experiment.compute.start())
        ranges, job = parts(description.test_examples), EvaluateParts(architecture, test, experiment.compute)

        def evaluate(parameters: Parameters) -> Evaluation:
            results = run_tasks(job, parameters, ranges)
            return Evaluation.of(part for several in results for part in several)

        state = state or ServerState(0, initial_parameters(architecture, experiment.seed))
        yield from run_rounds(state, client, store.sizes, run_tasks, evaluate, on_clients=on_clients)
