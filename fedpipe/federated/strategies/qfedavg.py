"""q-FedAvg: fairness, by weighing clients by their loss."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import NonNegativeFloat
from fedpipe.federated.context import ClientContext, LocalResult
from fedpipe.federated.messages import Aggregate, State, Update
from fedpipe.federated.strategies.base import Strategy


class QFedAvg(Strategy):
    """The strategy q-fedavg is fair to clients that the model serves badly: it weighs them by their loss.

    w ← w + Σ_k p_k F_k^q L Δ_k / Σ_k p_k h_k with h_k = q F_k^(q-1) ‖L Δ_k‖² + L F_k^q, F_k = F_k(w_t) and L = 1/lr.
    The larger q, the more a client's loss counts; q = 0 is federated averaging. Clients send F_k^q Δ_k and h_k / L:
    the algorithm's -Δ_k^t and h_k^t, both divided by L, which cancels. Li et al. 2020, arXiv:1905.10497, algorithm 2.
    """

    sends_besides = "the scalars h_k"
    sends_scalars = True
    transforms_break = "h_k is computed from the update before any transform"

    q: NonNegativeFloat = Field(
        default=0.1, description="Fairness: the larger, the more a client's loss counts; 0 is fedavg."
    )

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        loss = torch.tensor(context.start_loss() + 1e-10, dtype=torch.float64)  # so that 0 has powers below 0
        step = update.delta.double()
        square = float(step.square().sum()) / context.training.lr  # L ‖Δ_k‖²
        weight = loss**self.q  # F_k^q, infinite where a float's power would be an OverflowError
        h = self.q * loss ** (self.q - 1) * square + weight
        return replace(update, delta=(weight * step).to(update.delta.dtype), scalars={"h": float(h)})

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        return weights + aggregate.delta / aggregate.scalars["h"], {}
