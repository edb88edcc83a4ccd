"""FedAdagrad, FedAdam and FedYogi: an adaptive optimiser on the server, the mean update as its gradient."""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from fedpipe.strategies.base import Aggregate, Slots, Strategy

Fraction = Annotated[float, Field(ge=0, lt=1)]


class _FedOpt(Strategy):
    """m ← beta1 m + (1 - beta1) Δ, w ← w + lr m / (√v + tau), v as each has it, tau² at first.

    Reddi et al. 2021, arXiv:2003.00295, algorithm 2. It has no bias correction.
    """

    lr: PositiveFloat = 0.01
    beta1: Fraction = 0.9
    tau: PositiveFloat = 0.001

    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        m = self.beta1 * slots.get("m", torch.zeros(())) + (1 - self.beta1) * mean.delta
        v = self.second_moment(slots.get("v", torch.full_like(weights, self.tau**2)), mean.delta.square())
        return weights + self.lr * m / (v.sqrt() + self.tau), {"m": m, "v": v}

    @abstractmethod
    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The new v, from the old one and Δ²."""


class FedAdagrad(_FedOpt):
    """v ← v + Δ²."""

    beta1: Fraction = 0.0

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v + square


class FedAdam(_FedOpt):
    """v ← beta2 v + (1 - beta2) Δ²."""

    beta2: Fraction = 0.99

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * square


class FedYogi(_FedOpt):
    """v ← v - (1 - beta2) Δ² sign(v - Δ²)."""

    beta2: Fraction = 0.99

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)
