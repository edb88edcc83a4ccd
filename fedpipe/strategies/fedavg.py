"""Federated averaging."""

from torch import Tensor

from fedpipe.strategies.base import ServerState, Strategy


class FedAvg(Strategy):
    """w ← w + Σ_k (n_k / n) Δ_k, which is the weighted mean of the cohort's models.

    McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    def step(self, state: ServerState, aggregate: dict[str, Tensor]) -> ServerState:
        parameters = {
            name: (tensor.double() + aggregate[name]).to(tensor.dtype) for name, tensor in state.parameters.items()
        }
        return ServerState(state.round + 1, parameters)
