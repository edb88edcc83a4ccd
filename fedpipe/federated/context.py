"""What the client's side and the server's side of a strategy or a transform may know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.federated.messages import State
from fedpipe.system.randomness import generator
from fedpipe.training.settings import Training


class LocalTraining(Training):
    """How a client trains the server's model on its own examples."""

    lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="The learning rate is multiplied by this from one round to the next."
    )

    def in_round(self, round: int) -> Self:
        """Return the settings of round 1, 2, ...: the learning rate is lr * lr_decay ** (round - 1)."""
        return self if self.lr_decay == 1 else self.model_copy(update={"lr": self.lr * self.lr_decay ** (round - 1)})


@dataclass(frozen=True)
class ClientContext:
    """A client's round as a strategy or a transform sees it on the client. Vectors are (d,) float32."""

    round: int  # 1, 2, ...
    client: int
    client_weight: float  # p_k, of the client's loss in the objective F(w) = Σ_k p_k F_k(w)
    training: LocalTraining  # as in this round
    start: Tensor  # the server's parameters, w_t
    received: State  # what the strategy sent besides the model
    start_loss: Callable[[], float]  # evaluates the server's model on the client's examples, F_k(w_t)
    seed: int
    state: dict[str, Tensor] = field(default_factory=dict)  # the client state: what is assigned here is there next time

    def remembered(self, name: str) -> Tensor:
        """Return a (d,) vector of the client state; zeros before the client's first round."""
        return self.state.get(name, torch.zeros(())).expand_as(self.start)

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the generator of this client and round for a purpose."""
        return generator(self.seed, purpose, round=self.round, client=self.client)

    def with_state(self, state: dict[str, Tensor]) -> Self:
        """Return the context of another part, which has a client state of its own."""
        return replace(self, state=state)


@dataclass(frozen=True)
class LocalResult:
    """What local training came to."""

    delta: Tensor  # (d,) float32, the parameters less the server's
    steps: int  # of the optimiser, τ_k
    mean_gradient: Tensor | None  # (d,) float32, of its steps; None unless the strategy observes gradients


@dataclass(frozen=True)
class ArrivalContext:
    """A client's round as a transform sees it where the client's update arrives."""

    round: int
    client: int
    seed: int
    dimension: int  # d, of the vectors that clients send

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the generator of this client and round for a purpose: the one that the client has."""
        return generator(self.seed, purpose, round=self.round, client=self.client)


@dataclass(frozen=True)
class ServerContext:
    """A round as an aggregation or a transform sees it on the server."""

    round: int
    updates: int  # in the aggregate
    seed: int
    state: dict[str, Tensor]  # what is assigned here is there in the next round
    dimension: int = 0  # d, of the vectors that clients send
    clients: int = 0  # of which cohorts are drawn

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the server's generator of this round for a purpose."""
        return generator(self.seed, purpose, round=self.round)


def copied(states: Mapping[str, State], part: str) -> dict[str, Tensor]:
    """Return a part's state as a dictionary of its own."""
    return dict(states.get(part, {}))
