"""The sum for what needs every update at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedpipe.federated.aggregation.base import Aggregator, checked
from fedpipe.federated.messages import Message, Update


@dataclass(frozen=True)
class Collected(Message):
    """A round's updates by client."""

    updates: Mapping[str, Update] = field(default_factory=dict)  # by the client's number, as JSON has its keys

    def in_order(self) -> list[Update]:
        """Return the updates in the order of the clients' numbers."""
        return sorted(self.updates.values(), key=lambda update: update.client)


class Collecting(Aggregator[Collected]):
    """Collect the updates; memory grows with the cohort. A median or Krum's rule subclasses it and says `result`."""

    collects = True

    def empty(self) -> Collected:
        return Collected()

    def contribution(self, update: Update) -> Collected:
        checked(update)
        return Collected({str(update.client): update})

    def merge(self, total: Collected, other: Collected) -> Collected:
        return Collected({**total.updates, **other.updates})
