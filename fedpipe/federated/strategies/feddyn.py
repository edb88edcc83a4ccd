"""FedDyn: dynamic regularisation, which makes the clients' optima agree with the server's."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.context import ClientContext, LocalResult
from fedpipe.federated.messages import Aggregate, State, Task, Update
from fedpipe.federated.strategies.base import Strategy
from fedpipe.training.loop import Correction


class FedDyn(Strategy):
    """The strategy feddyn regularises clients dynamically, so that their optima agree with the server's.

    Client k minimises F_k(w) - ⟨λ_k, w⟩ + alpha/2 ‖w - w_t‖²; then λ_k ← λ_k - alpha Δ_k with Δ_k = w_k - w_t, which
    it sends. The server: h ← h - alpha Σ_k p_k Δ_k, so that h = Σ_k p_k λ_k over all clients, and w ← mean of w_k -
    h / alpha. Acar et al. 2021, arXiv:2111.04263, algorithm 1.
    """

    has_client_state = True
    sends_besides = "the regulariser's linear terms"
    transforms_break = "its clients and its server must follow the same update"

    alpha: PositiveFloat = Field(default=0.01, description="Weight of the regulariser.")

    def correction(self, context: ClientContext) -> Correction:
        gradient = context.remembered("gradient")  # λ_k
        return Correction(constant=-gradient - self.alpha * context.start, proximal=self.alpha)

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        context.state["gradient"] = context.remembered("gradient") - self.alpha * result.delta
        return update

    def on_arrival(self, update: Update, task: Task) -> Update:
        return replace(update, sums={"h": update.delta * (-self.alpha * task.client_weight)})

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        h = state.get("h", torch.zeros(())) + aggregate.sums["h"]
        return weights + aggregate.delta - h / self.alpha, {"h": h}
