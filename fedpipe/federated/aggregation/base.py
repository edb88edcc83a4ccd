"""What every aggregator is: a sum that can be made anywhere."""

import math
from abc import abstractmethod
from typing import ClassVar, Generic, Self, TypeVar

from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate, Message, State, Update

Sum = TypeVar("Sum", bound=Message)


class Refused(Exception):
    """Refuse an update, with the reason."""


class Aggregator(Section, Generic[Sum]):
    """Make one aggregate of a round's updates. Its fields are its parameters.

    A value of type `Sum` stands for the updates in it. Adding and merging must be associative and commutative to the
    last bit: workers, machines and trees add up their clients' updates in any grouping and order, and the aggregate
    is the same. What needs every update at once collects them (`Collected`).

    It may remember tensors from round to round, on the server, and tell those who add updates up what it knows.
    """

    collects: ClassVar[bool] = False  # whether its sum is all updates by themselves
    robust: ClassVar[bool] = False  # whether it bears hostile updates, of which it takes delta and buffers alone
    counts_nobody: ClassVar[bool] = False  # whether a round has a result in which no update arrived
    maskable: ClassVar[bool] = False  # whether its sum is an ExactSum, which also adds up numbers that are masked

    def broadcast(self, state: State) -> State:
        """Return what those who add updates up are told, from what the server remembers."""
        return {}

    def in_round(self, received: State) -> Self:
        """Return the aggregator of a round for which this was broadcast."""
        return self

    def enough(self, updates: int) -> bool:
        """Tell whether this many updates have an aggregate; else the round is skipped."""
        return updates > 0 or self.counts_nobody

    @abstractmethod
    def empty(self) -> Sum:
        """Return the sum of no updates."""

    @abstractmethod
    def contribution(self, update: Update) -> Sum:
        """Return the sum of this one update.

        Raises:
            Refused: the update cannot be taken.
        """

    @abstractmethod
    def merge(self, total: Sum, other: Sum) -> Sum:
        """Return the sum of the updates of both. It may change `total`'s tensors, which nobody may use any more."""

    def add(self, total: Sum, update: Update) -> Sum:
        """Return the sum with one more update, likewise.

        Raises:
            Refused: the update cannot be taken; the sum is as it was.
        """
        return self.merge(total, self.contribution(update))

    @abstractmethod
    def result(self, total: Sum, context: ServerContext) -> Aggregate:
        """Return the aggregate of a sum of enough updates, and remember in `context.state` what the server keeps."""


def checked(update: Update) -> dict[str, tuple[Tensor, float]]:
    """Return an update's vectors by name, each with its largest absolute value.

    Names are ``delta``, ``buffers/NAME`` and ``sums/NAME``.

    Raises:
        Refused: a number is not finite.
    """
    vectors = {
        "delta": update.delta,
        **{f"buffers/{name}": vector for name, vector in update.buffers.items()},
        **{f"sums/{name}": vector for name, vector in update.sums.items()},
    }
    largest = {name: _largest(vector) for name, vector in vectors.items()}
    for name, value in {**largest, **{f"scalars/{name}": value for name, value in update.scalars.items()}}.items():
        if not math.isfinite(value):
            raise Refused(f"its {name} is not finite")
    return {name: (vector, largest[name]) for name, vector in vectors.items()}


def _largest(vector: Tensor) -> float:
    if not vector.numel():
        return 0.0
    low, high = vector.aminmax()
    return max(-float(low), float(high)) if low == low else math.nan
