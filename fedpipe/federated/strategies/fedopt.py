"""FedAdagrad, FedAdam and FedYogi: an adaptive optimiser on the server, with the mean update as its gradient."""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.messages import Aggregate, State
from fedpipe.federated.strategies.base import Strategy

Fraction = Annotated[float, Field(ge=0, lt=1)]


class _FedOpt(Strategy):
    """m ← beta1 m + (1 - beta1) Δ, w ← w + lr m / (√v + tau), v as each has it, tau² at first.

    Δ is the mean of the clients' updates, which they send as they are. There is no bias correction. Reddi et al. 2021,
    arXiv:2003.00295, algorithm 2.
    """

    lr: PositiveFloat = Field(default=0.01, description="Learning rate of the server.")
    beta1: Fraction = Field(default=0.9, description="Decay of the mean of updates.")
    tau: PositiveFloat = Field(default=0.001, description="Adaptivity: the smaller, the more adaptive.")

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        m = self.beta1 * state.get("m", torch.zeros(())) + (1 - self.beta1) * aggregate.delta
        v = self.second_moment(state.get("v", torch.full_like(weights, self.tau**2)), aggregate.delta.square())
        return weights + self.lr * m / (v.sqrt() + self.tau), {"m": m, "v": v}

    @abstractmethod
    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Return the new v, from the old one and Δ²."""


class FedAdagrad(_FedOpt):
    """The strategy fedadagrad runs Adagrad on the server with the mean update Δ: v ← v + Δ²."""

    beta1: Fraction = Field(default=0.0, description="Decay of the mean of updates.")

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v + square


class FedAdam(_FedOpt):
    """The strategy fedadam runs Adam on the server with the mean update Δ: v ← beta2 v + (1 - beta2) Δ²."""

    beta2: Fraction = Field(default=0.99, description="Decay of the mean of squared updates.")

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * square


class FedYogi(_FedOpt):
    """The strategy fedyogi runs Yogi on the server with the mean update Δ: v ← v - (1 - beta2) Δ² sign(v - Δ²)."""

    beta2: Fraction = Field(default=0.99, description="Decay of the mean of squared updates.")

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)
