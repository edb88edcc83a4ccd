"""What every aggregator is: a sum that can be made anywhere."""

import math
from abc import abstractmethod
from typing import Generic, TypeVar

from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.messages import Aggregate, Message, Update

Sum = TypeVar("Sum", bound=Message)


class Refused(Exception):
    """Refuse an update, with the reason."""


class Aggregator(Section, Generic[Sum]):
    """Make one aggregate of a round's updates. Its fields are its parameters.

    A value of type `Sum` stands for the updates in it. Adding and merging must be associative and commutative to the
    last bit: workers, machines and trees add up their clients' updates in any grouping and order, and the aggregate
    is the same. What needs every update at once collects them (`Collected`).
    """

    @abstractmethod
    def empty(self) -> Sum:
        """Return the sum of no updates."""

    @abstractmethod
    def add(self, total: Sum, update: Update) -> Sum:
        """Return the sum with one more update. It may change `total`'s tensors, which nobody may use any more.

        Raises:
            Refused: the update cannot be taken; the sum is as it was.
        """

    @abstractmethod
    def merge(self, total: Sum, other: Sum) -> Sum:
        """Return the sum of the updates of both, likewise."""

    @abstractmethod
    def result(self, total: Sum) -> Aggregate:
        """Return the aggregate of a sum of at least one update."""


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
