"""FedAvgM: server momentum."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.messages import Aggregate, State
from fedpipe.federated.strategies.base import Strategy


class FedAvgM(Strategy):
    """The strategy fedavgm adds momentum to the server: v ← momentum v + Δ, w ← w + lr v, with the mean update Δ.

    Hsu et al. 2019, arXiv:1909.06335, section 4.2.
    """

    lr: PositiveFloat = Field(default=1.0, description="Learning rate of the server.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="Momentum of the server.")

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        v = self.momentum * state.get("v", torch.zeros(())) + aggregate.delta
        return weights + self.lr * v, {"v": v}
