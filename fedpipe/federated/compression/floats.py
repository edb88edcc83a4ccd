"""Floating-point numbers of half the length."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedpipe.federated.compression import codecs
from fedpipe.federated.compression.base import Compression
from fedpipe.federated.messages import State


class Float16(Compression):
    """The compression float16 rounds each number to 11 significant bits; beyond 65,504 it becomes that.

    IEEE 754 half precision; numbers below 6e-5 lose more, and below 3e-8 all.
    """

    dtype: ClassVar[torch.dtype] = torch.float16

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        return {self._name: codecs.encode_float(vector, self.dtype)}

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        return tensors[self._name].float()

    @property
    def _name(self) -> str:
        return codecs.name_of(self.dtype)


class BFloat16(Float16):
    """The compression bfloat16 rounds each number to 8 significant bits, with the range of float32."""

    dtype = torch.bfloat16
