"""Federated stochastic gradient descent: one gradient from each client and round."""

from fedpipe.federated.context import LocalTraining
from fedpipe.federated.strategies.fedavg import FedAvg


class FedSGD(FedAvg):
    """w ← w - lr Σ_k p_k ∇F_k(w), where ∇F_k is of all the client's examples.

    Of `federated.local` only the learning rate, its decay, weight decay and clipping count. Clients send
    -lr ∇F_k(w). McMahan et al. 2017, arXiv:1602.05629, section 2.
    """

    def local_training(self, settings: LocalTraining) -> LocalTraining:
        once = {"epochs": 1, "batch_size": None, "optimizer": "sgd", "momentum": 0.0}
        return settings.model_copy(update=once)
