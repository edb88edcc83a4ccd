"""FedAvgM: server momentum."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy


class FedAvgM(Strategy):
    """v ← momentum v + Δ, w ← w + lr v, Δ the mean update. Hsu et al. 2019, arXiv:1909.06335, section 4.2."""

    lr: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        v = self.momentum * slots.get("v", torch.zeros(())) + mean.delta
        return weights + self.lr * v, {"v": v}
