"""What crosses between the server and its clients: frozen values with a byte form, and nobody who sends them.

A message names no path and holds no live object, so a client may be a call in the same process or a process on another
machine. Its byte form is a safetensors file with the rest of the message as JSON in the file's metadata; bytes are
counted on that form. Vectors are (d,) float32: all trained parameters, one after the other (see `fedpipe.models`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fedpipe.system.records import Record

State = Mapping[str, Tensor]
"""What a strategy or a transform remembers from round to round, on the server or on a client: tensors by name."""


class Message(Record):
    """A record that crosses between the server and a client; its length is that of its byte form."""

    def __len__(self) -> int:
        return sum(map(len, self.frames()))


@dataclass(frozen=True)
class Broadcast(Message):
    """What the server sends to every client of a round."""

    round: int  # 1, 2, ...
    parameters: Mapping[str, Tensor]  # the server's model, buffers too
    extra: State = field(default_factory=dict)  # what the strategy sends besides, (d,) float32 each
    aggregation: State = field(default_factory=dict)  # what the aggregation tells those who add updates up
    # The oldest round after which training may have to go on again: clients keep their own states since then. () int64,
    # because it depends on the clock, and the length of a message must not.
    oldest_round: Tensor = field(default_factory=lambda: torch.tensor(0))
    # What compression makes of the parameters that clients train and send, which `parameters` then lacks.
    encoded: State = field(default_factory=dict)

    def vector(self, names: tuple[str, ...]) -> Tensor:
        """Return these parameters as one vector, which clients of the same process share."""
        if self._vector is None or self._vector[0] != names:
            vector = torch.cat([self.parameters[name].reshape(-1) for name in names])
            object.__setattr__(self, "_vector", (names, vector))  # frozen, but for this memory
        assert self._vector is not None
        return self._vector[1]

    _vector: ClassVar[tuple[tuple[str, ...], Tensor] | None] = None


@dataclass(frozen=True)
class Task(Message):
    """What the server asks of one client."""

    client: int
    epochs: int  # local epochs; fewer for a straggler
    weight: float  # of its update in the mean; those of a cohort sum to 1
    client_weight: float  # p_k, of its loss in the objective; those of all clients sum to 1
    last_round: int = 0  # the round whose client state it goes on from: its last update that counted; 0 for none


@dataclass(frozen=True)
class ClientReport(Message):
    """How a client's training went: a row of clients.csv."""

    round: int
    client: int
    examples: int  # that it trains on, n_k
    epochs: int
    train_loss: float | None  # of its last local epoch, as trained; None where clients tell nothing of themselves
    loss: float | None  # on the examples it trains on, after training; None where clients do not evaluate
    accuracy: float | None  # likewise; fraction
    held_out: int  # examples that it does not train on but tests on
    holdout_accuracy_before: float | None  # of the server's model on the held-out ones; None where there are none
    holdout_accuracy: float | None  # after training
    update_norm: float | None = 0.0  # L2 norm of the update as it arrives, 0 until then; None like the training loss


@dataclass(frozen=True)
class Update(Message):
    """What a client sends back."""

    client: int
    weight: float  # as in its task
    report: ClientReport
    delta: Tensor  # (d,) its parameters after training less the server's, or what the strategy makes of that
    buffers: State = field(default_factory=dict)  # the change of each of the network's buffers
    sums: State = field(default_factory=dict)  # (d,) each; added up without weights
    scalars: Mapping[str, float] = field(default_factory=dict)  # averaged like the delta
    encoded: State = field(default_factory=dict)  # what compression makes of the delta, which is then empty

    def norm(self) -> float:
        """Return the L2 norm of the delta."""
        return float(torch.linalg.vector_norm(self.delta.double()))


@dataclass(frozen=True)
class Refusal(Message):
    """An update that arrived and was not taken."""

    client: int
    reason: str


@dataclass(frozen=True)
class PartialSum(Message):
    """The updates of some clients as one: what a worker, a machine or a node of a tree sends on towards the server."""

    sum: Message  # the aggregator's
    reports: tuple[ClientReport, ...]  # of the clients in the sum
    refusals: tuple[Refusal, ...]
    bytes_up: int  # of the updates that were sent to make it


@dataclass(frozen=True)
class Aggregate:
    """The updates of a round as one; vectors are (d,) float64. It stays on the server."""

    delta: Tensor  # the weighted mean
    buffers: State = field(default_factory=dict)  # the weighted mean change of each of the network's buffers
    sums: State = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)  # weighted means
