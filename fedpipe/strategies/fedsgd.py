"""Federated stochastic gradient descent: one gradient a client and round."""

from fedpipe.strategies.fedavg import FedAvg
from fedpipe.training import Training


class FedSGD(FedAvg):
    """w ← w - lr Σ_k (n_k / n) ∇F_k(w), ∇F_k of the client's whole shard.

    Of `federated.local` only the learning rate, its decay, weight decay and clipping count. McMahan et al. 2017,
    arXiv:1602.05629, section 2.
    """

    def local(self, settings: Training) -> Training:
        once = {"epochs": 1, "batch_size": None, "optimizer": "sgd", "momentum": 0.0}
        return settings.model_copy(update=once)
