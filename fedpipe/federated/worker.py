"""What a worker does with the tasks it is handed: run those clients, and send one partial sum of their updates."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.client import Client
from fedpipe.federated.messages import Broadcast, ClientReport, PartialSum, Refusal, Task


@dataclass(frozen=True)
class TrainAndSum:
    """Stand for some clients and for the first node of the server's aggregation that their updates reach."""

    client: Client

    def __call__(self, broadcast: Broadcast, tasks: Iterable[Task]) -> PartialSum:
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
