"""Values with tensors in them as a few bytes and the tensors' own memory, for engines whose workers share none."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A value between processes."""

    frame: bytes  # a pickle of everything but the tensors' contents
    buffers: Sequence[np.ndarray]  # these, uint8, in the frame's order


def pack(value: Any) -> Packed:
    """Copies no tensor: the buffers are the tensors' memory. Of tensors on the CPU."""
    buffers: list[pickle.PickleBuffer] = []
    frame = io.BytesIO()
    _Pickler(frame, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(frame.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def unpack(packed: Packed) -> Any:
    """The value; its tensors have memory of their own."""
    return pickle.loads(packed.frame, buffers=[bytearray(buffer) for buffer in packed.buffers])


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor:
            return torch.from_numpy, (obj.contiguous().numpy(),)
        return NotImplemented
