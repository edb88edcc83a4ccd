"""QSGD: numbers rounded at random to a few levels."""

from typing import Annotated, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveInt
from fedpipe.federated.compression import codecs
from fedpipe.federated.compression.base import Compression
from fedpipe.federated.messages import State

Bits = Annotated[int, Field(ge=1, le=8)]


class Qsgd(Compression):
    """The compression qsgd rounds each number at random to one of a few levels, so that it is right on average.

    With b ≥ 2 bits these are 0 and s = 2^(b-1) - 1 levels of either sign, evenly spaced up to the norm of the bucket
    that the number belongs to; with 1 bit they are plus and minus that norm. Alistarh et al. 2017, arXiv:1610.02132,
    section 3.1; for 1 bit Jin et al. 2020, arXiv:2002.10940.
    """

    bits: Bits = Field(default=4, description="Bits that a number of an update takes, its sign among them.")
    bits_down: Bits = Field(
        default=8, description="Likewise for a number of the model on its way to clients, if compression_down is qsgd."
    )
    bucket: PositiveInt = Field(
        default=512, description="This many numbers share a norm, which takes 4 bytes: fewer are more precise."
    )
    norm: codecs.Norm = Field(
        default="max",
        description="The norm of a bucket: max, its largest absolute value, or l2, the Euclidean norm of the paper's "
        "theorems, with which levels are farther apart and more numbers become 0.",
    )

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        return codecs.encode_qsgd(vector, self.bits, self.bucket, self.norm, generator)

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        return codecs.decode_qsgd(tensors, d, self.bits, self.bucket)

    def down(self) -> Self:
        return self.model_copy(update={"bits": self.bits_down})
