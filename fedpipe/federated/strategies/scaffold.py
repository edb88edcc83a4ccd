"""SCAFFOLD: control variates against client drift."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.context import ClientContext, LocalResult
from fedpipe.federated.messages import Aggregate, State, Update
from fedpipe.federated.strategies.base import Strategy
from fedpipe.training.loop import Correction


class Scaffold(Strategy):
    """The strategy scaffold corrects client drift by control variates: steps of client k go along g - c_k + c.

    After training, c_k becomes the mean of the gradients g of the client's steps. The paper's option II,
    c_k - c + (w_t - w_k) / (K lr), is that mean if the client does plain SGD; written as the mean it holds for any
    local optimiser. Clients send the algorithm's (Δy_k, Δc_k), the latter times p_k, so that c = Σ_k p_k c_k over all
    clients. Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1.
    """

    has_client_state = observes_gradients = True
    sends_besides = "changes of control variates"

    lr: PositiveFloat = Field(default=1.0, description="Learning rate of the server.")

    def broadcast(self, state: State, dimension: int) -> State:
        return {"control": state.get("control", torch.zeros(dimension)).float()}  # c

    def correction(self, context: ClientContext) -> Correction:
        return Correction(constant=context.received["control"] - context.remembered("control"))

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        assert result.mean_gradient is not None, "it is observed"
        change = result.mean_gradient - context.remembered("control")
        context.state["control"] = result.mean_gradient  # c_k
        return replace(update, sums={"control": change * context.client_weight})

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        control = state.get("control", torch.zeros(())) + aggregate.sums["control"]
        return weights + self.lr * aggregate.delta, {"control": control}
