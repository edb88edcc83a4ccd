"""q-FedAvg: fairness, by weighing clients by their loss."""

from pydantic import NonNegativeFloat
from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy, Trained, Upload, Visit


class QFedAvg(Strategy):
    """w ← w + Σ_k p_k F_k^q L Δ_k / Σ_k p_k h_k with h_k = q F_k^(q-1) ‖L Δ_k‖² + L F_k^q, F_k = F_k(w_t), L = 1/lr.

    The larger q, the more a client counts that the model serves badly; q = 0 is federated averaging. Li et al. 2020,
    arXiv:1905.10497, algorithm 2.
    """

    needs_start_loss = True

    q: NonNegativeFloat = 0.1

    def upload(self, visit: Visit, trained: Trained) -> Upload:
        assert trained.start_loss is not None, "asked for by needs_start_loss"
        loss = trained.start_loss + 1e-10  # so that 0 has powers below 0
        L = 1 / visit.local.lr
        step = L * trained.delta.double()
        h = self.q * loss ** (self.q - 1) * float(step.square().sum()) + L * loss**self.q
        return Upload((loss**self.q * step).to(trained.delta.dtype), scalars={"h": h})

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        return weights + mean.delta / mean.scalars["h"], {}
