"""What a worker does with the tasks it is handed: run those clients, and send one partial sum of their updates."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.client import Client
from fedpipe.federated.messages import Broadcast, ClientReport, PartialSum, Refusal, Task
from fedpipe.federated.secure.base import Mask


@dataclass(frozen=True)
class TrainAndSum:
    """Stand for some clients and for the first node of the server's aggregation that their updates reach."""

    client: Client

    def __call__(self, broadcast: Broadcast, tasks: Iterable[Task]) -> PartialSum:
        broadcast = self.client.received(broadcast)
        strategy, aggregator = self.client.settings.algorithm, self.client.aggregator(broadcast)
        total = aggregator.empty()
        reports: list[ClientReport] = []
        refusals: list[Refusal] = []
        bytes_up = 0
        for task in tasks:
            update = self.client.update(broadcast, task)
            bytes_up += len(update)
            try:
                arrived = self.client.arrived(update, broadcast.round)
                total = aggregator.add(total, strategy.on_arrival(arrived, task))
                reports.append(update.report)
            except Refused as reason:
                refusals.append(Refusal(task.client, str(reason)))
        return PartialSum(total, tuple(reports), tuple(refusals), bytes_up)


@dataclass(frozen=True)
class TrainAndMask:
    """Do as `TrainAndSum` with clients that mask what they send, so that nobody sees more than masked sums.

    A client whose update cannot be added up sends nothing, since nobody could check what is masked.
    """

    client: Client

    def __call__(self, shared: tuple[Broadcast, Mask], tasks: Iterable[Task]) -> PartialSum:
        broadcast, mask = self.client.received(shared[0]), shared[1]
        strategy, aggregator = self.client.settings.algorithm, self.client.aggregator(broadcast)
        total = aggregator.empty()
        reports: list[ClientReport] = []
        bytes_up = 0
        for task in tasks:
            update = self.client.update(broadcast, task)
            whole = strategy.on_arrival(self.client.arrived(update, broadcast.round), task)
            try:
                sent, masked = mask(task.client, aggregator.contribution(whole))
            except Refused:
                continue
            bytes_up += len(sent) + len(update.report)
            total = aggregator.merge(total, masked)
            reports.append(update.report)
        return PartialSum(total, tuple(reports), (), bytes_up)
