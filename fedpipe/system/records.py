"""Frozen values with a byte form: what crosses between processes and what is saved to go on from.

The byte form is a safetensors file with all that is no tensor as JSON in the file's metadata. Floats lie in a tensor of
their own: 8 bytes each, whatever their digits, so that rounding, which differs between types of CPU, changes no length.
Reading a byte form runs no code.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load
from torch import Tensor

TO_JSON = json.JSONEncoder(separators=(",", ":")).encode
AS_THEY_ARE = frozenset({int, str, bool, type(None)})  # in JSON
FLOATS = "floats"  # the name of their tensor; others' names begin with a slash
DTYPES = {  # as safetensors names them
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Record:
    """A frozen dataclass of numbers, text, tensors, other records, and mappings or tuples of these."""

    kinds: ClassVar[dict[str, type["Record"]]] = {}  # every record by its name: nothing else is decoded

    def __init_subclass__(cls) -> None:
        if cls.__name__ in Record.kinds:
            raise TypeError(f"there is a record {cls.__name__} already")
        Record.kinds[cls.__name__] = cls

    def encode(self) -> bytes:
        """Return the byte form."""
        return b"".join(self.frames())

    def frames(self) -> list[bytes | memoryview]:
        """Return the pieces of the byte form, one after the other: a header, and the tensors where they lie.

        References:
            The format of safetensors: the header's length in 8 bytes, JSON, the tensors' bytes.
        """
        tensors: dict[str, Tensor] = {}
        floats: list[float] = []
        content = TO_JSON(_without_tensors(self, "", tensors, floats))
        if floats:
            tensors[FLOATS] = torch.tensor(floats, dtype=torch.float64)
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

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the record of a byte form that a record of this class encoded."""
        (length,) = struct.unpack_from("<Q", data)
        content = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["message"])
        tensors = load(data)
        record = _with_tensors(content, tensors, tensors[FLOATS].tolist() if FLOATS in tensors else [])
        assert isinstance(record, cls)
        return record


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor], floats: list[float]) -> Any:
    """Return the value as JSON, its tensors taken out into `tensors` by their path, and its floats into `floats`."""

    def inner(item: Any, name: Any) -> Any:
        return _without_tensors(item, f"{path}/{name}", tensors, floats)

    if type(value) in AS_THEY_ARE:
        return value
    match value:
        case float():
            floats.append(value)
            return {"$float": len(floats) - 1}
        case Tensor():
            tensors[path] = value.contiguous()
            return {"$tensor": path}
        case Fraction():
            return {"$fraction": [str(value.numerator), str(value.denominator)]}
        case tuple():
            return [inner(item, place) for place, item in enumerate(value)]
        case Mapping() if not all(isinstance(key, str) for key in value):
            return {"$pairs": [[inner(key, f"{key} itself"), inner(item, key)] for key, item in value.items()]}
        case Mapping():
            return {"$map": {key: inner(item, key) for key, item in value.items()}}
        case Record():
            content = {name: inner(getattr(value, name), name) for name in _fields(type(value))}
            return {"$message": type(value).__name__, **content}
    return value


@lru_cache
def _fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _with_tensors(value: Any, tensors: Mapping[str, Tensor], floats: Sequence[float]) -> Any:
    """Undo `_without_tensors`."""

    def whole(item: Any) -> Any:
        return _with_tensors(item, tensors, floats)

    if isinstance(value, list):
        return tuple(whole(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return floats[value["$float"]]
    if "$fraction" in value:
        return Fraction(*map(int, value["$fraction"]))
    if "$pairs" in value:
        return {whole(key): whole(item) for key, item in value["$pairs"]}
    if "$map" in value:
        return {key: whole(item) for key, item in value["$map"].items()}
    content = {key: whole(item) for key, item in value.items() if key != "$message"}
    return Record.kinds[value["$message"]](**content)
