"""The weighted mean, exact in any order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fedpipe.federated.aggregation.base import Aggregator, Refused, checked
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate, Message, Update
from fedpipe.system.errors import UserError


@dataclass(frozen=True)
class FixedPoint:
    """Numbers that are whole multiples of a unit, below a limit."""

    unit: float
    limit: float


MEANS = FixedPoint(unit=2.0**-48, limit=2.0**13)  # a float32 of 1e-4 keeps all its digits; weights sum to 1
SUMS = FixedPoint(unit=2.0**-40, limit=2.0**13)  # which have no weights: hundreds of the largest fit
COUNTS = FixedPoint(unit=2.0**-20, limit=2.0**41)  # buffers that are whole numbers, such as counts of batches
GUARD = 2.0**4  # means are rounded to multiples of GUARD units, so that the rounding of every term does not show
CAPACITY = 2**62  # units that an int64 sum holds, with a bit to spare

# Adding 1.5 * 2**52 to a float64 below 2**51 leaves it, rounded to a whole number, in the low bits of the result.
MAGIC = torch.tensor(1.5 * 2.0**52, dtype=torch.float64)
MAGIC_BITS = int(MAGIC.view(torch.int64))


@dataclass(frozen=True)
class ExactSum(Message):
    """Σ w_k x_k of each vector and scalar, and Σ w_k, as numbers whose addition is exact."""

    vectors: Mapping[str, Tensor] = field(default_factory=dict)  # int64, by name as in `checked`
    units: Mapping[str, float] = field(default_factory=dict)  # of the vectors' numbers
    scalars: Mapping[str, Fraction] = field(default_factory=dict)
    weight: Fraction = Fraction(0)
    largest: int = 0  # what the largest numbers of the updates in it add up to, in units: no sum is larger

    def numbers(self) -> Tensor:
        """Return the vectors' numbers as one vector, by name: (numbers,) int64."""
        return torch.cat([self.vectors[name].reshape(-1) for name in sorted(self.vectors)])

    def with_numbers(self, numbers: Tensor) -> Self:
        """Return the sum with these in place of `numbers()`."""
        names = sorted(self.vectors)
        pieces = numbers.split([self.vectors[name].numel() for name in names])
        vectors = {name: piece.view(self.vectors[name].shape) for name, piece in zip(names, pieces, strict=True)}
        return replace(self, vectors=vectors)


class Mean(Aggregator[ExactSum]):
    """Average the updates, each with its weight; sums are added without weights.

    Each w_k x_k is rounded once to a whole multiple of a unit; these add up exactly in any order, which floating-point
    numbers do not. The mean is rounded to a coarser multiple, so that the mean of equal updates is that update. McMahan
    et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    maskable = True

    def empty(self) -> ExactSum:
        return ExactSum()

    def contribution(self, update: Update) -> ExactSum:
        parts = checked(update)
        numbers = {name: _kind(name, vector) for name, (vector, _) in parts.items()}
        for name, (_, largest) in parts.items():
            if largest >= numbers[name].limit:
                raise Refused(f"its {name} reaches {largest:.3g}; numbers below {numbers[name].limit:g} are averaged")
        vectors, largest_units = {}, 0
        for name, (vector, largest) in parts.items():
            factor = (1.0 if name.startswith("sums/") else update.weight) / numbers[name].unit
            vectors[name] = _rounded(vector, factor, largest)
            largest_units = max(largest_units, math.ceil(largest * factor))
        weight = Fraction(update.weight)
        scalars = {name: weight * Fraction(value) for name, value in update.scalars.items()}
        units = {name: number.unit for name, number in numbers.items()}
        return ExactSum(vectors, units, scalars, weight, largest_units)

    def merge(self, total: ExactSum, other: ExactSum) -> ExactSum:
        largest = total.largest + other.largest
        if largest >= CAPACITY:
            raise UserError("training diverges: the sum of the updates is too large; a smaller local.lr might do")
        vectors = dict(total.vectors)
        for name, vector in other.vectors.items():
            vectors[name] = _plus(vectors[name], vector) if name in vectors else vector
        scalars = {
            name: total.scalars.get(name, Fraction(0)) + other.scalars.get(name, Fraction(0))
            for name in {**total.scalars, **other.scalars}
        }
        return ExactSum(vectors, {**total.units, **other.units}, scalars, total.weight + other.weight, largest)

    def result(self, total: ExactSum, context: ServerContext) -> Aggregate:
        weight = float(total.weight)

        def mean(name: str) -> Tensor:
            vector = total.vectors[name].double()
            return vector.div_(weight * GUARD).round_().mul_(total.units[name] * GUARD)

        def below(prefix: str) -> dict[str, str]:
            return {name.removeprefix(prefix): name for name in total.vectors if name.startswith(prefix)}

        return Aggregate(
            delta=mean("delta"),
            buffers={key: mean(name) for key, name in below("buffers/").items()},
            sums={key: total.vectors[name].double().mul_(total.units[name]) for key, name in below("sums/").items()},
            scalars={name: float(value / total.weight) for name, value in total.scalars.items()},
        )


def _kind(name: str, vector: Tensor) -> FixedPoint:
    if not vector.dtype.is_floating_point:
        return COUNTS
    return SUMS if name.startswith("sums/") else MEANS


def _rounded(vector: Tensor, factor: float, largest: float) -> Tensor:
    """Return factor * vector rounded to whole numbers, int64; `largest` is the vector's largest absolute value."""
    scaled = vector.to(torch.float64, copy=True)
    if largest * factor < 2**50:
        # In half the time of rounding: a product and an addition in one pass over the memory.
        return _plus(torch.add(MAGIC, scaled, alpha=factor, out=scaled).view(torch.int64), -MAGIC_BITS)
    return scaled.mul_(factor).round_().to(torch.int64)


def _plus(whole: Tensor, other: Tensor | int) -> Tensor:
    """Add to int64 numbers in place, in half of torch's time, which multiplies the second summand by 1 first."""
    numbers = whole.numpy()
    np.add(numbers, other.numpy() if isinstance(other, Tensor) else other, out=numbers)
    return whole
