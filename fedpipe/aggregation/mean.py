"""The weighted mean of the clients' updates."""

from collections.abc import Iterable

from torch import Tensor

from fedpipe.client import Update
from fedpipe.strategies import Aggregate


def weighted_mean(updates: Iterable[Update]) -> Aggregate:
    """Σ_k w_k Δ_k / Σ_k w_k over the clients that sent an update; likewise of buffers and scalars.

    Takes one update after the other and keeps none; there must be one. Summed in the order given, in float64:
    floating-point addition is not associative, so the order is part of the result.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    deltas, own_changes = _Sum(), _Sum()
    buffers: dict[str, _Sum] = {}
    scalars: dict[str, float] = {}
    total = 0.0
    for update in updates:
        deltas.add(update.weight, update.delta)
        for name, change in update.buffers.items():
            buffers.setdefault(name, _Sum()).add(update.weight, change)
        for name, value in update.scalars.items():
            scalars[name] = scalars.get(name, 0.0) + update.weight * value
        if update.own_change is not None:
            own_changes.add(update.share, update.own_change)
        total += update.weight
    assert deltas.value is not None, "a round without updates is void"
    return Aggregate(
        delta=deltas.value.div_(total),
        buffers={name: sum.value.div_(total) for name, sum in buffers.items() if sum.value is not None},
        scalars={name: value / total for name, value in scalars.items()},
        own_change=own_changes.value,
    )


class _Sum:
    """Σ weight * tensor, in float64."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def add(self, weight: float, tensor: Tensor) -> None:
        # Converted first: adding float32 to float64 in place takes torch ten times as long.
        tensor = tensor.double()
        self.value = tensor.mul_(weight) if self.value is None else self.value.add_(tensor, alpha=weight)
