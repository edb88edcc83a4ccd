"""What every mixing is, and an aggregation of mixed updates."""

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.aggregation.robust import rows
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate


class Mixing(Section):
    """Leave updates as they are. Mixings differ from that; their fields are their parameters."""

    def enough(self, updates: int) -> bool:
        """Tell whether this many updates can be mixed."""
        return True

    def mixed(self, updates: Tensor) -> Tensor:
        """Return the updates (n, d) that take the place of these, in the same order; float64."""
        return updates


class Mixed(Collecting):
    """Mix a round's updates before an aggregator gets them. Buffers are not mixed."""

    robust = True

    aggregator: Aggregator = Field(description="that the updates are for; it collects")
    mixing: Mixing = Field(description="of the updates")

    def enough(self, updates: int) -> bool:
        return self.mixing.enough(updates) and self.aggregator.enough(updates)

    def result(self, total: Collected, context: ServerContext) -> Aggregate:
        updates = total.in_order()
        mixed = self.mixing.mixed(rows([update.delta for update in updates]))
        replaced = (replace(update, delta=delta) for update, delta in zip(updates, mixed, strict=True))
        return self.aggregator.result(Collected({str(update.client): update for update in replaced}), context)
