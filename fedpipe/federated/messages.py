"""What crosses between the server and its clients: frozen values with a byte form, and nobody who sends them.

A message names no path and holds no live object, so a client may be a call in the same process or a process on another
machine. Its byte form is a safetensors file with the rest of the message as JSON in the file's metadata; bytes are
counted on that form. Vectors are (d,) float32: all trained parameters, one after the other (see `fedpipe.models`).
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load
from torch import Tensor

State = Mapping[str, Tensor]
"""What a strategy or a transform remembers from round to round, on the server or on a client: tensors by name."""


TO_JSON = json.JSONEncoder(separators=(",", ":")).encode
AS_THEY_ARE = frozenset({int, float, str, bool, type(None)})  # in JSON
DTYPES = {  # as safetensors names them
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Message:
    """A frozen dataclass of numbers, text, tensors, other messages, and mappings or tuples of these."""

    kinds: ClassVar[dict[str, type["Message"]]] = {}  # every message by its name: nothing else is decoded

    def __init_subclass__(cls) -> None:
        if cls.__name__ in Message.kinds:
            raise TypeError(f"there is a message {cls.__name__} already")
        Message.kinds[cls.__name__] = cls

    def encode(self) -> bytes:
        """Return the byte form."""
        return b"".join(self.frames())

    def frames(self) -> list[bytes | memoryview]:
        """Return the pieces of the byte form, one after the other: a header, and the tensors where they lie.

        References:
            The format of safetensors: the header's length in 8 bytes, JSON, the tensors' bytes.
        """
        tensors: dict[str, Tensor] = {}
        content = TO_JSON(_without_tensors(self, "", tensors))
        header: dict[str, Any] = {"__metadata__": {"message": content}}
        end = 0
        # Wide numbers first, so that all lie at multiples of their width.
        ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
        for name, tensor in ordered:
            start, end = end, end + tensor.nbytes
            header[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
        text = TO_JSON(header).encode()
        text += b" " * (-len(text) % 8)
        return [struct.pack("<Q", len(text)), text, *(_bytes_of(tensor) for _, tensor in ordered)]

    def __len__(self) -> int:
        """Return the length of the byte form."""
        return sum(map(len, self.frames()))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the message of a byte form that a message of this class encoded."""
        (length,) = struct.unpack_from("<Q", data)
        content = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["message"])
        message = _with_tensors(content, load(data))
        assert isinstance(message, cls)
        return message


@dataclass(frozen=True)
class Broadcast(Message):
    """What the server sends to every client of a round."""

    round: int  # 1, 2, ...
    parameters: Mapping[str, Tensor]  # the server's model, buffers too
    extra: State = field(default_factory=dict)  # what the strategy sends besides, (d,) float32 each

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
    data_fraction: float  # p_k = n_k / n, the client's part of all training examples
    last_round: int = 0  # the round whose client state it goes on from: its last update that counted; 0 for none


@dataclass(frozen=True)
class ClientReport(Message):
    """How a client's training went: a row of clients.csv."""

    round: int
    client: int
    examples: int  # that it trains on, n_k
    epochs: int
    train_loss: float  # of its last local epoch, as trained
    loss: float | None  # on the examples it trains on, after training; None where clients do not evaluate
    accuracy: float | None  # likewise; fraction
    held_out: int  # examples that it does not train on but tests on
    holdout_accuracy_before: float | None  # of the server's model on the held-out ones; None where there are none
    holdout_accuracy: float | None  # after training


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


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return the value as JSON, its tensors taken out into `tensors` by their path."""
    if type(value) in AS_THEY_ARE:
        return value
    match value:
        case Tensor():
            tensors[path] = value.contiguous()
            return {"$tensor": path}
        case Fraction():
            return {"$fraction": [str(value.numerator), str(value.denominator)]}
        case tuple():
            return [_without_tensors(item, f"{path}/{place}", tensors) for place, item in enumerate(value)]
        case Mapping():
            return {"$map": {key: _without_tensors(item, f"{path}/{key}", tensors) for key, item in value.items()}}
        case Message():
            content = {name: _without_tensors(getattr(value, name), f"{path}/{name}", tensors)
                       for name in _fields(type(value))}  # fmt: skip
            return {"$message": type(value).__name__, **content}
    return value


@lru_cache
def _fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_without_tensors`."""
    if isinstance(value, list):
        return tuple(_with_tensors(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$fraction" in value:
        return Fraction(*map(int, value["$fraction"]))
    if "$map" in value:
        return {key: _with_tensors(item, tensors) for key, item in value["$map"].items()}
    content = {key: _with_tensors(item, tensors) for key, item in value.items() if key != "$message"}
    return Message.kinds[value["$message"]](**content)
