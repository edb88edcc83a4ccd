"""The mean of the clients' updates, weighted by their examples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedpipe.client import Update


def weighted_mean(updates: Sequence[Update]) -> dict[str, Tensor]:
    """Σ_k (n_k / n) Δ_k over the clients that sent an update, n = Σ_k n_k.

    Summed in the order given, in float64: floating-point addition is not associative, so the order is part of the
    result. Returns float64.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    n = sum(update.report.examples for update in updates)
    mean = {name: torch.zeros_like(delta, dtype=torch.float64) for name, delta in updates[0].delta.items()}
    for update in updates:
        for name, delta in update.delta.items():
            mean[name].add_(delta, alpha=update.report.examples / n)
    return mean
