"""Federated averaging."""

from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy


class FedAvg(Strategy):
    """w ← w + Σ_k (n_k / n) Δ_k, which is the weighted mean of the cohort's models.

    McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        return weights + mean.delta, {}
