"""What a worker does with the tasks it is handed: run those clients, and send one partial sum of their updates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedpipe.federated.aggregation.base import Aggregator, Refused
from fedpipe.federated.client import Client
from fedpipe.federated.messages import Broadcast, ClientReport, PartialSum, Refusal, Task, Update
from fedpipe.federated.secure.base import Mask


@dataclass(frozen=True)
class TrainAndSum:
    """Stand for some clients and for the first node of the server's aggregation that their updates reach."""

    client: Client

    def __call__(self, broadcast: Broadcast, tasks: Iterable[Task]) -> PartialSum:
        broadcast = self.client.received(broadcast)
        aggregator = self.client.aggregator(broadcast)
        total = aggregator.empty()
        reports: list[ClientReport] = []
        refusals: list[Refusal] = []
        bytes_up = 0
        for update, came in _trained(self.client, broadcast, aggregator, tasks):
            bytes_up += len(update)
            if isinstance(came, Refusal):
                refusals.append(came)
            else:
                total = aggregator.merge(total, came.contribution)
                reports.append(came.report)
        return PartialSum(total, tuple(reports), tuple(refusals), bytes_up)


@dataclass(frozen=True)
class TrainAndMask:
    """Do as `TrainAndSum` with clients that mask what they send, so that nobody sees more than masked sums.

    A client whose update cannot be added up sends nothing, since nobody could check what is masked.
    """

    client: Client

    def __call__(self, shared: tuple[Broadcast, Mask], tasks: Iterable[Task]) -> PartialSum:
        broadcast, mask = self.client.received(shared[0]), shared[1]
        aggregator = self.client.aggregator(broadcast)
        total = aggregator.empty()
        reports: list[ClientReport] = []
        bytes_up = 0
        for update, came in _trained(self.client, broadcast, aggregator, tasks):
            if isinstance(came, Refusal):
                continue
            try:
                sent, masked = mask(update.client, came.contribution)
            except Refused:
                continue
            bytes_up += len(sent) + len(came.report)
            total = aggregator.merge(total, masked)
            reports.append(came.report)
        return PartialSum(total, tuple(reports), (), bytes_up)


@dataclass(frozen=True)
class _Arrived:
    """What came of an update that can be added up."""

    report: ClientReport  # with the norm of what arrived, where clients report
    contribution: Any  # to the aggregator's sum


def _trained(
    client: Client, broadcast: Broadcast, aggregator: Aggregator, tasks: Iterable[Task]
) -> Iterator[tuple[Update, _Arrived | Refusal]]:
    """Have clients train, and yield each one's update as it sends it, and what comes of that where it arrives."""
    strategy = client.settings.algorithm
    for task in tasks:
        update = client.update(broadcast, task)
        try:
            arrived = client.arrived(update, broadcast.round)
            contribution = aggregator.contribution(strategy.on_arrival(arrived, task))
        except Refused as reason:
            yield update, Refusal(task.client, str(reason))
            continue
        report = replace(update.report, update_norm=arrived.norm()) if client.settings.reports else update.report
        yield update, _Arrived(report, contribution)
