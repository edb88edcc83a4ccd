"""What the robust aggregations have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.aggregation.rules import coordinate_median, hostile_among
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate

HostileFraction = Annotated[
    float,
    Field(
        ge=0,
        lt=0.5,
        description="The largest fraction of a round's updates that may be hostile; of n updates it is f, rounded up.",
    ),
]


class Robust(Collecting):
    """Make one update of all by a rule that a few hostile ones do not decide.

    Each counts the same, whatever its weight: a client that says that it has many examples may be hostile.

    Buffers, such as BatchNorm's statistics, are no part of the vectors. Of each of their numbers the median is taken,
    also where the rule would choose clients: a hostile client could hide any buffer behind an honest vector.
    """

    robust = True

    @abstractmethod
    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        """Return one vector (d,) for those of all clients (n, d), in the order of their numbers; float64."""

    def rule_of_buffers(self, changes: Tensor) -> Tensor:
        """Return, likewise, what becomes of the changes of a buffer."""
        return coordinate_median(changes)

    def result(self, total: Collected, context: ServerContext) -> Aggregate:
        updates = total.in_order()
        buffers = {
            name: self.rule_of_buffers(rows([update.buffers[name] for update in updates])).view(buffer.shape)
            for name, buffer in updates[0].buffers.items()
        }
        return Aggregate(self.rule(rows([update.delta for update in updates]), context), buffers)


class RobustToFraction(Robust):
    """Hold for up to a fraction of hostile updates, which the rule is told."""

    hostile: HostileFraction = 0.2

    @abstractmethod
    def fewest(self, f: int) -> int:
        """Return how many updates it takes if f of them may be hostile."""

    def enough(self, updates: int) -> bool:
        return updates >= max(1, self.fewest(self.f(updates)))

    def f(self, updates: int) -> int:
        """Return how many of some updates may be hostile."""
        return hostile_among(updates, self.hostile)


def rows(vectors: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape as the rows of a matrix, float64."""
    return torch.stack([vector.reshape(-1) for vector in vectors]).double()
