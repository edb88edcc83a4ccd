"""Values with tensors in them between processes: a few bytes and the tensors' memory.

This is how one program's processes talk; what a server and a client on another machine would send each other is
`fedpipe.federated.messages`.
"""

import io
import pickle
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedpipe.system.forked import Packed
from fedpipe.system.machine import train_on_threads


def pack(value: object) -> Packed:
    """Pack a value whose tensors are on the CPU. No tensor is copied: the buffers are the tensors' memory."""
    buffers: list[pickle.PickleBuffer] = []
    frame = io.BytesIO()
    _Pickler(frame, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(frame.getvalue(), [buffer.raw() for buffer in buffers])


def unpack(packed: Packed) -> Any:
    """Return the value. Its tensors are the buffers' memory, or copies where that cannot be written to."""
    buffers = map(memoryview, packed.buffers)
    return pickle.loads(packed.frame, buffers=[bytearray(each) if each.readonly else each for each in buffers])


@dataclass(frozen=True)
class Outcome:
    """What came of a call in a worker: a value or an exception, which knows the worker's traceback."""

    value: Any = None
    error: Exception | None = None


class Calls:
    """Call a job in a worker's process: a handler as `ForkedWorkers` understands it.

    Args:
        common: the job, pickled, the value that it shares, and all tasks, pickled.
    """

    def __init__(self, common: Packed) -> None:
        self._common = common

    def __call__(self, taken: Iterable[int]) -> Packed:
        try:
            job, shared, tasks = self._unpacked
            return pack(Outcome(job(shared, (tasks[index] for index in taken))))
        except Exception as error:
            error.add_note(f"in a worker:\n{traceback.format_exc()}")
            return pack(Outcome(error=error))

    @cached_property
    def _unpacked(self) -> tuple[Any, Any, Any]:
        train_on_threads(1)
        job, shared, tasks = unpack(self._common)
        return pickle.loads(job), shared, pickle.loads(tasks)


HANDLER = f"{Calls.__module__}:{Calls.__qualname__}"


def value_of(packed: Packed) -> Any:
    """Return the value of an outcome, or raise its exception."""
    outcome = unpack(packed)
    if outcome.error:
        raise outcome.error
    return outcome.value


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        if type(obj) is Tensor and obj.dtype != torch.bfloat16:  # which NumPy does not know
            return torch.from_numpy, (obj.contiguous().numpy(),)
        return NotImplemented
