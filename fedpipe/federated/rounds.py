"""The loop of federated rounds: draw a cohort, train its clients, add up their updates, step, evaluate."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import fmean
from typing import Any, Self

import numpy as np
import torch

from fedpipe.engines import RunTasks
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.client import Client
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate, Broadcast, ClientReport, PartialSum, Refusal, Task
from fedpipe.federated.sampling import Cohort
from fedpipe.federated.secure.base import Collected, Mask, Train
from fedpipe.federated.state import ServerState
from fedpipe.federated.worker import TrainAndMask, TrainAndSum
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.randomness import secret_seed
from fedpipe.system.records import Record
from fedpipe.training.evaluation import Evaluation, Evaluations, Evaluator

CLIENT_COLUMNS = [column.name for column in fields(ClientReport)]  # of clients.csv

REMEDY = "a smaller federated.local.lr, or federated.local.clip_norm, might do"  # where training diverges

OnClients = Callable[[tuple[ClientReport, ...]], None]


@dataclass(frozen=True)
class Round(Record):
    """What a round did."""

    number: int  # 1, 2, ...
    cohort: Cohort
    clients: tuple[ClientReport, ...]  # of those whose updates counted, ascending; none in a skipped round
    lost: tuple[int, ...]  # the clients that were to return an update of which nothing arrived
    refusals: tuple[Refusal, ...]  # the updates that arrived and were not taken
    evaluations: Evaluations  # of the new model
    bytes_down: int  # of the messages to all clients of the cohort
    bytes_up: int  # of the updates that arrived
    aggregate_norm: float | None  # L2 norm of what the aggregation makes of the updates; None in a skipped round
    hostile: tuple[int, ...] | None  # the attackers in the cohort; None where there is no attack
    training_seconds: float = field(compare=False)  # from the draw to the new model
    evaluation_seconds: float = field(compare=False)
    clip: float | None = None  # of updates, if the privacy mechanism adapts it
    # Of a round of average size, in place of what was, where clients are promised privacy; see `of_nobody`.
    usual_examples: int | None = None

    @classmethod
    def of(
        cls, number: int, cohort: Cohort, arrived: PartialSum, aggregate: Aggregate | None,
        evaluations: Evaluations, bytes_down: int, hostile: frozenset[int] | None,
        training_seconds: float, evaluation_seconds: float,
    ) -> Self:  # fmt: skip
        """Return what a round did in which these updates arrived; their aggregate is None if they are too few."""
        heard = {one.client for one in (*arrived.reports, *arrived.refusals)}
        reports = arrived.reports if aggregate else ()
        return cls(
            number,
            cohort,
            tuple(sorted(reports, key=lambda report: report.client)),
            tuple(member.client for member in cohort.members if member.client not in heard),
            tuple(sorted(arrived.refusals, key=lambda refusal: refusal.client)),
            evaluations,
            bytes_down,
            arrived.bytes_up,
            aggregate and float(torch.linalg.vector_norm(aggregate.delta)),
            None if hostile is None else tuple(one for one in cohort.drawn if one in hostile),
            training_seconds,
            evaluation_seconds,
        )

    @property
    def test(self) -> Evaluation | None:
        """The evaluation of the new model on the test set; None where there was none."""
        return self.evaluations.test

    @property
    def skipped(self) -> bool:
        """Whether too few updates counted, so that the model is what it was."""
        return self.aggregate_norm is None

    @property
    def returned(self) -> int:
        """How many updates arrived and were taken, even if they were too few."""
        return len(self.cohort.members) - len(self.lost) - len(self.refusals)

    def of_nobody(self, *, examples: int, bytes_down: int, bytes_up: int) -> Self:
        """Return the round without what tells who took part, or how many did: all that a promise of privacy permits.

        Args:
            examples: that a round of average size processes.
            bytes_down: likewise, of messages.
            bytes_up: likewise.
        """
        return replace(
            self, cohort=Cohort(()), clients=(), lost=(), refusals=(), hostile=None,
            usual_examples=examples, bytes_down=bytes_down, bytes_up=bytes_up,
        )  # fmt: skip

    @property
    def examples(self) -> int | None:
        """The examples of the clients that counted, Σ_k n_k; None where clients are promised privacy."""
        return None if self.usual_examples is not None else sum(client.examples for client in self.clients)

    @property
    def train_loss(self) -> float | None:
        """The mean of the clients' training losses, weighted as their updates are; None in a skipped round."""
        return self._mean(lambda report: report.train_loss)

    @property
    def examples_processed(self) -> int:
        """The examples of the clients that counted, each as often as it was trained on: Σ_k n_k times local epochs.

        Where clients are promised privacy, those of a round of average size.
        """
        if self.usual_examples is not None:
            return self.usual_examples
        return sum(client.examples * client.epochs for client in self.clients)

    @property
    def update_norm(self) -> float | None:
        """The mean L2 norm of the updates as they were sent, Σ_k p_k ‖Δ_k‖ with the aggregation's weights p_k.

        None in a skipped round.
        """
        return self._mean(lambda report: report.update_norm)

    @property
    def update_cosine(self) -> float | None:
        """The mean cosine of the updates to their weighted mean Δ, in which longer ones count more; 1 if all agree.

        It needs the norms alone, and not the updates, of which the server has but the sum:
        Σ_k p_k ‖Δ_k‖ cos(Δ_k, Δ) / Σ_k p_k ‖Δ_k‖ = Σ_k p_k ⟨Δ_k, Δ⟩ / (‖Δ‖ Σ_k p_k ‖Δ_k‖) = ‖Δ‖ / Σ_k p_k ‖Δ_k‖,
        since Σ_k p_k Δ_k = Δ. With another aggregation than the mean it is a ratio of lengths, and no cosine. None in a
        skipped round, and where all updates are 0.
        """
        return self.aggregate_norm / self.update_norm if self.aggregate_norm is not None and self.update_norm else None

    @property
    def honest_accuracy(self) -> float | None:
        """The mean accuracy of the honest clients that counted, each of its own model on its own examples.

        Each counts alike. None where there are none, or clients do not evaluate.
        """
        honest = [report.accuracy for report in self.clients if report.client not in (self.hostile or ())]
        known = [accuracy for accuracy in honest if accuracy is not None]
        return fmean(known) if known else None

    def _mean(self, value: Callable[[ClientReport], float | None]) -> float | None:
        """Return the mean of a value over the clients, weighted as their updates are.

        None in a skipped round, and where clients do not tell it.
        """
        values = {report.client: value(report) for report in self.clients}
        known = {client: number for client, number in values.items() if number is not None}
        if not known or len(known) < len(values):
            return None
        weights = {member.client: member.weight for member in self.cohort.members}
        total = sum(weights[client] for client in known)
        return sum(weights[client] / total * number for client, number in known.items())

    def without_confusion(self) -> Self:
        """Return the round as a history keeps it: the tables need no more."""
        return replace(self, evaluations=self.evaluations.without_confusion())

    def row(self) -> dict[str, Any]:
        """Return the round's row of rounds.csv."""
        return {
            "round": self.number,
            "cohort": _numbers(self.cohort.drawn),
            "dropped": _numbers(self.cohort.dropped),
            "lost": _numbers(self.lost),
            "refused": _numbers(refusal.client for refusal in self.refusals),
            "skipped": int(self.skipped),
            "examples": self.examples,
            "train_loss": self.train_loss,
            **self.evaluations.row(),
            "update_norm": self.update_norm,
            "aggregate_norm": self.aggregate_norm,
            "update_cosine": self.update_cosine,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            **({} if self.hostile is None else self._attacked()),
        }

    def _attacked(self) -> dict[str, Any]:
        """Return the columns of a round under attack."""
        return {
            "hostile": _numbers(self.hostile or ()),
            "honest_accuracy": self.honest_accuracy,
            "backdoor_success": self.evaluations.backdoor,
        }


def run_rounds(
    state: ServerState,
    client: Client,
    sizes: np.ndarray,
    run_tasks: RunTasks,
    evaluator: Evaluator,
    *,
    oldest: Callable[[], int] | None = None,
    on_clients: OnClients = lambda reports: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Run rounds of federated training from a state on, and yield after each; end when training is over.

    Args:
        state: round 0 with initial parameters, or one that this function yielded.
        client: what the clients have in common. The server never calls it: the engine's workers do.
        sizes: (clients,) the number of examples that each client trains on: all that the server knows of their data.
        run_tasks: an engine's. It may yield fewer results than it was given tasks; those clients are lost.
        evaluator: of the server's model.
        oldest: returns the round of the oldest state that training may go on from, for which clients keep their own
            states; None means the state that was yielded last.
        on_clients: told of clients as their updates arrive, for progress.

    Raises:
        ParameterError: the cohort is larger than the population.
        UserError: an update cannot be used, and the settings say to stop then.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    settings, seed = client.settings, client.seed
    strategy, transforms = settings.algorithm, settings.chain
    if settings.clients_per_round > len(sizes):
        raise ParameterError(
            "federated.clients_per_round", f"{settings.clients_per_round} exceeds the {len(sizes)} clients"
        )
    settings.mechanism.check(len(sizes), settings.clients_per_round, settings.rounds)
    client_weights = settings.client_weights(sizes)
    names, dimension = [*client.layout.shared], client.layout.dimension

    while not settings.is_over(state):
        number, begun = state.round + 1, time.monotonic()
        by = secret_seed() if settings.mechanism.is_secret else seed
        cohort = settings.draw(sizes, settings.local_training.epochs, by, number)
        extra = strategy.broadcast(state.strategy, dimension)
        keep = torch.tensor(oldest() if oldest else state.round)
        told = settings.aggregator.broadcast(state.aggregation)
        broadcast = client.sent(Broadcast(number, state.parameters, extra, told, keep))
        aggregator = client.aggregator(broadcast)
        tasks = _tasks(cohort, client_weights, state.last_rounds)
        expected = [member.client for member in cohort.members]
        train = _training(client, broadcast, aggregator, tasks, expected, run_tasks, on_clients)
        collected = settings.protocol.collect(seed, number, tasks.keys(), train, run_tasks)
        arrived = collected.updates
        if arrived.refusals and settings.on_bad_update == "stop":
            first = min(arrived.refusals, key=lambda refusal: refusal.client)
            raise UserError(f"round {number}: client {first.client}'s update cannot be used: {first.reason}; {REMEDY}")

        aggregate = None
        updates = len(arrived.reports)
        enough = aggregator.enough(updates) and (updates >= settings.min_updates or aggregator.counts_nobody)
        if enough and not collected.void:  # else the round is skipped: model and states stay as they are
            context = ServerContext(number, updates, seed, {**state.aggregation}, dimension, len(sizes))
            aggregate = aggregator.result(arrived.sum, context)
            mean, remembered = transforms.on_server(aggregate, number, updates, seed, state.transforms)
            state = strategy.step(state, mean, names).after_updates(arrived.reports, remembered, context.state)
        trained = time.monotonic()
        due = number % settings.evaluate_every == 0 or number == settings.rounds
        evaluations = evaluator.during_training(state.parameters) if due else Evaluations()
        state = state.after_round(number, evaluations.deciding, client.architecture.spec.classes)
        if settings.is_over(state):
            evaluations = evaluator.in_the_end(state.parameters, evaluations)
        seconds = trained - begun, time.monotonic() - trained
        hostile = client.hostile if settings.is_attacked else None
        round = Round.of(number, cohort, arrived, aggregate, evaluations, collected.bytes_down, hostile, *seconds)
        yield state, _of_nobody(round, client, broadcast, sizes) if settings.mechanism.is_private else round


def _tasks(cohort: Cohort, client_weights: np.ndarray, last_rounds: Mapping[int, int]) -> dict[int, Task]:
    """Return what is asked of each client of the cohort; the weights of those that are to answer sum to 1.

    Args:
        cohort: of the round.
        client_weights: (clients,) of all clients in the objective, p_k.
        last_rounds: client: the round of its last update that counted.
    """
    total = sum(member.weight for member in cohort.members) or 1.0
    return {
        member.client: Task(
            member.client,
            member.epochs,
            weight=member.weight / total,
            client_weight=float(client_weights[member.client]),
            last_round=last_rounds.get(member.client, 0),
        )
        for member in cohort.invited
    }


def _training(
    client: Client,
    broadcast: Broadcast,
    aggregator: Aggregator,
    tasks: Mapping[int, Task],
    expected: Collection[int],
    run_tasks: RunTasks,
    on_clients: OnClients,
) -> Train:
    """Return what has clients of the cohort train, where clients run.

    Args:
        client: what they have in common.
        broadcast: what they are sent.
        aggregator: of the round.
        tasks: what is asked of each client of the cohort.
        expected: the clients that are to return an update.
        run_tasks: an engine's.
        on_clients: told of clients as their updates arrive.
    """

    def train(clients: Collection[int], mask: Mask | None = None) -> Collected:
        bytes_down = len(clients) * len(broadcast) + sum(len(tasks[number]) for number in clients)
        training = [tasks[number] for number in expected if number in clients]
        if mask:
            results = run_tasks(TrainAndMask(client), (broadcast, mask), training)
        else:
            results = run_tasks(TrainAndSum(client), broadcast, training)
        return Collected(_merged(aggregator, results, on_clients), bytes_down)

    return train


def _merged(aggregator: Aggregator, results: Iterable[PartialSum], on_clients: OnClients) -> PartialSum:
    """Merge partial sums as they come."""
    merged = PartialSum(aggregator.empty(), (), (), 0)
    for result in results:
        on_clients(result.reports)
        merged = PartialSum(
            aggregator.merge(merged.sum, result.sum),
            merged.reports + result.reports,
            merged.refusals + result.refusals,
            merged.bytes_up + result.bytes_up,
        )
    return merged


def _of_nobody(round: Round, client: Client, broadcast: Broadcast, sizes: np.ndarray) -> Round:
    """Return what may be told of a round where clients are promised privacy: the figures of a round of average size.

    Args:
        round: what it did.
        client: what clients have in common.
        broadcast: what they were sent.
        sizes: (clients,) the number of examples that each client trains on.
    """
    settings, told = client.settings, broadcast.aggregation
    members, epochs = settings.clients_per_round, settings.local_training.epochs
    usual = settings.protocol.usual(members, client.layout.dimension, client.typical(broadcast))
    return replace(
        round.of_nobody(
            examples=int(members * epochs * sizes.sum()) // len(sizes),
            bytes_down=members * (len(broadcast) + len(Task(0, epochs, 0.0, 0.0)) + usual.down),
            bytes_up=members * usual.up,
        ),
        clip=float(told["clip"]) if "clip" in told else None,
    )


def _numbers(clients: Iterable[int]) -> str:
    return " ".join(map(str, clients))
