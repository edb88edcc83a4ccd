"""FedNova: updates of clients that took different numbers of steps, normalised before they are averaged."""

from dataclasses import replace

from torch import Tensor

from fedpipe.federated.context import ClientContext, LocalResult
from fedpipe.federated.messages import Aggregate, State, Update
from fedpipe.federated.strategies.base import Strategy


class FedNova(Strategy):
    """w ← w + τ_eff Σ_k p_k Δ_k / ‖a_k‖₁ with τ_eff = Σ_k p_k ‖a_k‖₁. Wang et al. 2020, arXiv:2007.07481, equation 8.

    Clients send the normalised update Δ_k / ‖a_k‖₁, which is -lr times the paper's d_k, and ‖a_k‖₁, the weight that a
    client's gradients add up to: τ_k steps of plain SGD weigh τ_k, with momentum ρ they weigh
    (τ_k - ρ (1 - ρ^τ_k) / (1 - ρ)) / (1 - ρ) (section 4). For Adam, which the paper does not treat, it is τ_k.
    """

    sends_besides = "the norms ‖a_k‖₁"
    sends_scalars = True

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        tau, rho = result.steps, context.training.momentum
        norm = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        return replace(update, delta=update.delta / norm, scalars={"norm": norm})

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        return weights + aggregate.scalars["norm"] * aggregate.delta, {}
