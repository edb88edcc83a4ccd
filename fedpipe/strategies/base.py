"""What every strategy is: how it differs from federated averaging, on the client and on the server."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedpipe.models import Parameters, flat
from fedpipe.params import Section
from fedpipe.training import Correction, Training

Slots = Mapping[str, Tensor]  # what the server remembers from round to round, (d,) float64 each

CLIENTS = "clients"  # the slot that a strategy with client state always has: Σ_k p_k s_k, s_k what client k keeps


@dataclass(frozen=True)
class ServerState:
    """All that a round needs of the rounds before it."""

    round: int  # rounds done
    parameters: Parameters  # of the model, buffers too
    slots: Slots = field(default_factory=dict)
    kept: Mapping[int, int] = field(default_factory=dict)  # client: the round from which it keeps its own state
    best_loss: float = float("inf")  # of the evaluations on the test set so far
    waited: int = 0  # evaluations since the best
    accuracy: float = 0.0  # of the last evaluation


@dataclass(frozen=True)
class Visit:
    """A client's round, before it trains. Vectors are (d,) float32: all trained parameters, one after the other."""

    start: Tensor  # the server's, w_t
    own: Tensor  # what the client kept of its last round, zeros before its first; empty if the strategy keeps nothing
    clients: Tensor  # the server's slot of that name, zeros at first; empty unless the strategy sends it
    local: Training  # as it trains in this round


@dataclass(frozen=True)
class Trained:
    """A client's round, after it trained."""

    delta: Tensor  # (d,) float32, its parameters less the server's
    steps: int  # of gradient descent, τ_k
    start_loss: float | None  # F_k(w_t) on its own examples; None unless the strategy needs it
    mean_gradient: Tensor | None  # (d,) float32, of its steps; None unless the strategy needs it


@dataclass(frozen=True)
class Upload:
    """What a client sends to the server, and what it keeps for itself."""

    delta: Tensor  # (d,) float32
    scalars: Mapping[str, float] = field(default_factory=dict)
    own: Tensor | None = None  # (d,) float32, its state for its next round


@dataclass(frozen=True)
class Aggregate:
    """The updates of a round as one. Means are over the clients that returned, weighted; vectors are float64."""

    delta: Tensor  # (d,), the mean
    buffers: Parameters  # the mean change of each of the network's buffers
    scalars: Mapping[str, float]  # the means
    own_change: Tensor | None = None  # (d,), Σ_k p_k (s_k - s_k before), p_k = n_k / n over the whole population


class Strategy(Section):
    """A federated algorithm. Its fields are its parameters.

    All minimise F(w) = Σ_k p_k F_k(w), p_k the part of all training examples that client k has. Papers that write
    p_k = 1/K for it are met exactly by clients of equal size.
    """

    keeps_state: ClassVar[bool] = False  # whether a client keeps a vector from round to round
    sends_clients_slot: ClassVar[bool] = False  # whether clients are sent the sum of those besides the model
    sends_state: ClassVar[bool] = False  # whether clients send the change of their state besides their update
    needs_start_loss: ClassVar[bool] = False
    needs_mean_gradient: ClassVar[bool] = False

    def local(self, settings: Training) -> Training:
        """How clients train, from what `federated.local` says."""
        return settings

    def correction(self, visit: Visit) -> Correction | None:
        """What the client adds to the gradient of each step; None: nothing."""
        return None

    def upload(self, visit: Visit, trained: Trained) -> Upload:
        """What the client sends. With `keeps_state`, also what it keeps."""
        return Upload(trained.delta)

    @abstractmethod
    def update(self, weights: Tensor, mean: Aggregate, slots: Slots) -> tuple[Tensor, Slots]:
        """The server's step.

        Args:
            weights: (d,) float64, w_t.
            mean: of the clients' uploads.
            slots: what the server remembers, empty at first. CLIENTS is up to date with this round.

        Returns:
            w_{t+1}, and the slots to remember besides CLIENTS.
        """

    def step(self, state: ServerState, mean: Aggregate) -> ServerState:
        """The state after a round. Buffers, such as BatchNorm's statistics, are averaged whatever the strategy."""
        kept = {}
        if mean.own_change is not None:
            kept = {CLIENTS: state.slots.get(CLIENTS, 0.0) + mean.own_change}
        trained = [name for name in state.parameters if name not in mean.buffers]
        weights = flat(state.parameters[name] for name in trained).double()
        weights, slots = self.update(weights, mean, {**state.slots, **kept})
        pieces = weights.split([state.parameters[name].numel() for name in trained])
        new = {name: piece.view(state.parameters[name].shape) for name, piece in zip(trained, pieces, strict=True)}
        new |= {name: state.parameters[name].double() + change for name, change in mean.buffers.items()}
        parameters = {name: _as(tensor, new[name]) for name, tensor in state.parameters.items()}
        return replace(state, round=state.round + 1, parameters=parameters, slots={**slots, **kept})


def _as(old: Tensor, new: Tensor) -> Tensor:
    """In the old tensor's type; a whole number, such as BatchNorm's count of batches, is rounded."""
    return (new if old.dtype.is_floating_point else torch.round(new)).to(old.dtype)
