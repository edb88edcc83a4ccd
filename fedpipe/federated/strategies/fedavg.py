"""Federated averaging."""

from torch import Tensor

from fedpipe.federated.messages import Aggregate, State
from fedpipe.federated.strategies.base import Strategy


class FedAvg(Strategy):
    """w ← w + Δ with the weighted mean Δ of the cohort's Δ_k: the weighted mean of the cohort's models.

    Clients send Δ_k, their model less the server's. McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        return weights + aggregate.delta, {}
