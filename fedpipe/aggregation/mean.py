"""The mean of the clients' updates, weighted by their examples."""

from collections.abc import Iterable

from torch import Tensor

from fedpipe.client import Update


def weighted_mean(updates: Iterable[Update]) -> dict[str, Tensor]:
    """Σ_k n_k Δ_k / n over the clients that sent an update, n = Σ_k n_k.

    Takes one update after the other and keeps none. Summed in the order given, in float64: floating-point addition is
    not associative, so the order is part of the result. Returns float64.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    total: dict[str, Tensor] = {}
    n = 0
    for update in updates:
        n_k = update.report.examples
        for name, delta in update.delta.items():
            # Converted first: adding float32 to float64 in place takes torch ten times as long.
            total[name] = total[name].add_(delta.double(), alpha=n_k) if n else delta.double().mul_(n_k)
        n += n_k
    return {name: tensor.div_(n) for name, tensor in total.items()}
