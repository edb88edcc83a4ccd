"""Values with tensors in them as a few bytes and the tensors' memory, for engines whose workers share none.

This is how one program's processes talk; what a server and a client on another machine would send each other is
`fedpipe.federated.messages`.
"""

import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Form = TypeVar("Form")


@dataclass(frozen=True)
class Packed:
    """A value between processes."""

    frame: bytes  # a pickle of everything but the tensors' contents
    buffers: Sequence[np.ndarray]  # the tensors' contents, uint8, in the frame's order


def pack(value: object) -> Packed:
    """Pack a value whose tensors are on the CPU. No tensor is copied: the buffers are the tensors' memory."""
    buffers: list[pickle.PickleBuffer] = []
    frame = io.BytesIO()
    _Pickler(frame, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(frame.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def unpack(packed: Packed) -> Any:
    """Return the value; its tensors have memory of their own."""
    return pickle.loads(packed.frame, buffers=[bytearray(buffer) for buffer in packed.buffers])


@dataclass(frozen=True)
class Outcome:
    """What came of a call in a worker: a value or an exception, which knows the worker's traceback."""

    value: Any = None
    error: Exception | None = None


def outcome_of(job: Callable[[Any, Any], Any], shared: object, chunk: object, form: Callable[[Outcome], Form]) -> Form:
    """Call the job, and return what came of it in a form that can be sent."""
    try:
        return form(Outcome(job(shared, chunk)))
    except Exception as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        return form(Outcome(error=error))


def value_of(outcome: Outcome) -> Any:
    """Return the value, or raise the exception."""
    if outcome.error:
        raise outcome.error
    return outcome.value


def dumps(value: object) -> bytes:
    """Return a pickle of the value, tensors and all; `pickle.loads` undoes it."""
    frame = io.BytesIO()
    _Pickler(frame, protocol=5).dump(value)
    return frame.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        if type(obj) is Tensor and obj.dtype != torch.bfloat16:  # which NumPy does not know
            return torch.from_numpy, (obj.contiguous().numpy(),)
        return NotImplemented
