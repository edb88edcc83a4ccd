"""FedDyn: dynamic regularisation that makes clients' optima agree with the server's."""

from pydantic import PositiveFloat
from torch import Tensor

from fedpipe.strategies.base import CLIENTS, Aggregate, Slots, Strategy, Trained, Upload, Visit
from fedpipe.training import Correction


class FedDyn(Strategy):
    """Clients minimise F_k(w) - ⟨λ_k, w⟩ + alpha/2 ‖w - w_t‖²; then λ_k ← λ_k - alpha (w_k - w_t).

    The server: h ← h - alpha Σ_k p_k (w_k - w_t), that is h = Σ_k p_k λ_k over all clients, and w ← mean of w_k - h /
    alpha. Acar et al. 2021, arXiv:2111.04263, algorithm 1.
    """

    keeps_state = True  # λ_k; the server can tell its change from the update

    alpha: PositiveFloat = 0.01

    def correction(self, visit: Visit) -> Correction:
        return Correction(constant=-visit.own - self.alpha * visit.start, proximal=self.alpha)

    def upload(self, visit: Visit, trained: Trained) -> Upload:
        return Upload(trained.delta, own=visit.own - self.alpha * trained.delta)

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        return weights + mean.delta - slots[CLIENTS] / self.alpha, {}
