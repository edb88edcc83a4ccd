"""SCAFFOLD: control variates against client drift."""

from pydantic import PositiveFloat
from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy, Trained, Upload, Visit
from fedpipe.training import Correction


class Scaffold(Strategy):
    """Each step of client k goes along g - c_k + c; then c_k becomes the mean of the gradients g of its steps.

    Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1. Its option II, c_k - c + (w_t - w_k) / (K lr), is that mean
    if the client does plain SGD; written as the mean it holds for any local optimiser. c = Σ_k p_k c_k.
    """

    keeps_state = sends_clients_slot = sends_state = needs_mean_gradient = True

    lr: PositiveFloat = 1.0  # the server's, η_g

    def correction(self, visit: Visit) -> Correction:
        return Correction(constant=visit.clients - visit.own)

    def upload(self, visit: Visit, trained: Trained) -> Upload:
        return Upload(trained.delta, own=trained.mean_gradient)

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        return weights + self.lr * mean.delta, {}
