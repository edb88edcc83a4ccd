"""The round loop: cohort → clients → aggregate → server step → evaluate."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from fedpipe import datasets, shards
from fedpipe.aggregation import weighted_mean
from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.client import Broadcast, Client, ClientReport, Local, Task, Update, state_file
from fedpipe.engines import Map
from fedpipe.errors import UserError
from fedpipe.evaluation import CHUNK, Evaluation, Part, evaluate_part
from fedpipe.models import Model, bytes_of, flat, network_with, trained_names
from fedpipe.params import choice
from fedpipe.participation import Cohort, Participation
from fedpipe.strategies import CLIENTS, STRATEGIES, ServerState, Strategy

CLIENT_COLUMNS = [column.name for column in fields(ClientReport)]  # of clients.csv
TEST_PART = 5 * CHUNK  # test examples a worker evaluates at a time


@choice("strategy", STRATEGIES)
class Federated(Participation):
    """Federated training."""

    rounds: PositiveInt = 5
    strategy: str = "fedavg"
    local: Local = Local()
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    patience: PositiveInt | None = None
    evaluate_every: PositiveInt = 1
    evaluate_clients: bool = True

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.min_updates > self.clients_per_round:
            raise ValueError(f"min_updates: {self.min_updates} exceeds clients_per_round = {self.clients_per_round}")
        if self.stragglers and self.local_training.epochs == 1:
            raise ValueError(
                f"stragglers: {self.stragglers:g}: they train fewer local epochs than the others, and these train 1; "
                "a larger local.epochs, and a strategy other than fedsgd, would do"
            )
        return self

    @property
    def algorithm(self) -> Strategy:
        return self.chosen("strategy")

    @property
    def local_training(self) -> Local:
        """How clients train, as the strategy has it."""
        training = self.algorithm.local(self.local)
        assert isinstance(training, Local)
        return training

    def is_over(self, state: ServerState) -> bool:
        """All rounds are done, or training stops early."""
        return (
            state.round >= self.rounds
            or (self.target_accuracy is not None and state.accuracy >= self.target_accuracy)
            or (self.patience is not None and state.waited >= self.patience)
        )


@dataclass(frozen=True)
class TestTask:
    """A part of the test set to evaluate: examples start..stop-1."""

    __test__ = False  # no test of pytest's

    start: int
    stop: int


@dataclass(frozen=True)
class Work:
    """What a worker does with what the server sends: trains a client, or evaluates on a part of the test set.

    Of settings and paths alone, these absolute: a worker reads the data where it lies.
    """

    settings: Federated
    model: Model
    seed: int
    test: Path  # as `fedpipe.datasets.save` writes it
    states: Path = Path("client-states")  # a folder for what clients keep from round to round, if the strategy has such
    arithmetic: Arithmetic = PLAIN

    @cached_property
    def client(self) -> Client:
        return Client(
            self.settings.algorithm, self.model, self.settings.local, self.seed, self.states,
            self.settings.evaluate_clients, self.arithmetic,
        )  # fmt: skip

    def trained(self, state: ServerState) -> Tensor:
        """(d,) the model's weights, without its buffers."""
        network = network_with(self.model, state.parameters)
        return flat(state.parameters[name] for name in trained_names(network))

    def __call__(self, broadcast: Broadcast, task: Task | TestTask) -> Update | Part:
        if isinstance(task, Task):
            return self.client.train(task, broadcast)
        test = datasets.load_to(self.arithmetic.torch_device(), self.test)
        part = slice(task.start, task.stop)
        return evaluate_part(self.model, broadcast.parameters, test.images[part], test.labels[part])


@dataclass(frozen=True)
class Round:
    """What a round did."""

    number: int  # 1, 2, ...
    cohort: Cohort
    clients: Sequence[ClientReport]  # of those that returned an update, in order; none if the round is void
    test: Evaluation | None  # of the new model; None in a round that is not evaluated
    bytes_down: int  # to all clients of the cohort
    bytes_up: int  # from those that returned

    @property
    def void(self) -> bool:
        """Too few updates came back: the model is what it was."""
        return not self.clients

    @property
    def examples(self) -> int:
        """Those of the clients that returned, Σ_k n_k."""
        return sum(client.examples for client in self.clients)

    @property
    def examples_processed(self) -> int:
        """Likewise, each as often as it was trained on."""
        return sum(client.examples * client.epochs for client in self.clients)

    def row(self) -> dict[str, Any]:
        """As in rounds.csv."""
        losses = [client.examples * client.train_loss for client in self.clients]
        return {
            "round": self.number,
            "cohort": " ".join(map(str, self.cohort.drawn)),
            "dropped": " ".join(map(str, self.cohort.dropped)),
            "void": int(self.void),
            "examples": self.examples,
            "train_loss": None if self.void else sum(losses) / self.examples,
            "test_loss": self.test and self.test.loss,
            "test_accuracy": self.test and self.test.accuracy,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


def run(
    state: ServerState,
    work: Work,
    population: Sequence[shards.Shard],
    test_examples: int,
    map: Map,
    *,
    on_client: Callable[[ClientReport], None] = lambda report: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Rounds of federated training from a state on; yields after each, until all are done or training stops early.

    Args:
        state: round 0 with initial parameters, or one that this function yielded.
        population: where each client's shard lies. The server knows its size, only clients open it.
        test_examples: how many there are.
        map: an engine's, started with this `work`: runs the cohort's clients, and the parts of the test set, at the
            same time.
        on_client: told of each client as its update is taken, for progress.

    With a strategy whose clients keep state, what `work.states` holds belongs to the last state that was yielded.

    Raises:
        UserError: the cohort is larger than the population.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    settings, strategy = work.settings, work.settings.algorithm
    if settings.clients_per_round > len(population):
        raise UserError(
            f"params.yaml: federated.clients_per_round: {settings.clients_per_round} exceeds "
            f"the {len(population)} clients of the partition"
        )
    sizes = [len(shard) for shard in population]
    vector = len(work.trained(state))
    test = [TestTask(at, min(at + TEST_PART, test_examples)) for at in range(0, test_examples, TEST_PART)]
    outdated: list[Path] = []

    while not settings.is_over(state):
        for path in outdated:  # only now, so that whoever took the last state could still go on from there
            path.unlink(missing_ok=True)
        number, outdated = state.round + 1, []
        cohort = settings.draw(sizes, settings.local_training.epochs, work.seed, number)
        reports: list[ClientReport] = []
        size_down = size_up = bytes_of(state.parameters)
        broadcast = Broadcast(state.parameters)
        if strategy.sends_clients_slot:
            broadcast = Broadcast(state.parameters, state.slots.get(CLIENTS, torch.zeros(vector)).float())
            size_down += broadcast.clients.nbytes
        if strategy.sends_state:
            size_up += torch.float32.itemsize * vector

        if len(cohort.members) >= settings.min_updates:
            updates = map(broadcast, _tasks(number, cohort, population, state))
            # What acts on single updates (robust aggregation, privacy, compression) acts here, before they become one.
            state = strategy.step(state, weighted_mean(_noted(updates, reports, on_client)))
        else:  # void: the model stays as it is
            state = replace(state, round=number)
        if strategy.keeps_state:
            returned = [report.client for report in reports]
            outdated = [state_file(work.states, k, state.kept[k]) for k in returned if k in state.kept]
            state = replace(state, kept={**state.kept, **dict.fromkeys(returned, number)})
        result = None
        if number % settings.evaluate_every == 0 or number == settings.rounds:
            result = Evaluation.of(map(Broadcast(state.parameters), test))
            state = _noting(result, state)
        yield (
            state,
            Round(number, cohort, reports, result, len(cohort.drawn) * size_down, len(cohort.members) * size_up),
        )


def _tasks(number: int, cohort: Cohort, population: Sequence[shards.Shard], state: ServerState) -> Iterator[Task]:
    examples = sum(map(len, population))
    for member in cohort.members:
        k, shard = member.client, population[member.client]
        yield Task(number, k, shard, member.epochs, member.weight, share=len(shard) / examples, kept=state.kept.get(k))


def _noted(
    updates: Iterable[Update], reports: list[ClientReport], on_client: Callable[[ClientReport], None]
) -> Iterator[Update]:
    for update in updates:
        reports.append(update.report)
        on_client(update.report)
        yield update


def _noting(result: Evaluation, state: ServerState) -> ServerState:
    """What early stopping needs to know of an evaluation."""
    if result.loss < state.best_loss:  # never, if training diverged and the loss is NaN
        return replace(state, best_loss=result.loss, waited=0, accuracy=result.accuracy)
    return replace(state, waited=state.waited + 1, accuracy=result.accuracy)
