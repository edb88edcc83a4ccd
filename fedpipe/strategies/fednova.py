"""FedNova: updates of clients that took different numbers of steps, normalised before they are averaged."""

from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy, Trained, Upload, Visit


class FedNova(Strategy):
    """w ← w + τ_eff Σ_k p_k Δ_k / ‖a_k‖₁ with τ_eff = Σ_k p_k ‖a_k‖₁.

    ‖a_k‖₁ is how much the client's steps add up to, in gradients: τ_k for plain SGD, and with momentum ρ
    (τ_k - ρ (1 - ρ^τ_k) / (1 - ρ)) / (1 - ρ). Wang et al. 2020, arXiv:2007.07481, equation 8 and section 4. For Adam,
    which the paper does not treat, it is τ_k.
    """

    def upload(self, visit: Visit, trained: Trained) -> Upload:
        tau, rho = trained.steps, visit.local.momentum
        norm = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        return Upload(trained.delta / norm, scalars={"norm": norm})

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        return weights + mean.scalars["norm"] * mean.delta, {}
