"""Compressions that send a few of an update's numbers."""

import math
from fractions import Fraction
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from fedpipe.federated.compression import codecs
from fedpipe.federated.compression.base import Compression, WithErrorFeedback
from fedpipe.federated.messages import State


class Sparse(Compression):
    """A compression that sends a fraction of the numbers."""

    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.01, description="The fraction of an update's numbers that is sent, rounded up to a whole number."
    )

    def kept(self, d: int) -> int:
        """Return how many of d numbers are sent, k = ⌈fraction · d⌉."""
        return math.ceil(Fraction(str(self.fraction)) * d)  # 0.07 * 100 exceeds 7 in floating point


class TopK(WithErrorFeedback, Sparse):
    """The compression top-k sends those numbers of an update that are largest in absolute value, and their places.

    Of equal ones those that come first are sent. Each takes 8 bytes. Aji and Heafield 2017, arXiv:1704.05021; with
    error feedback Stich et al. 2018, arXiv:1809.07599.
    """

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        return codecs.encode_top_k(vector, self.kept(len(vector)))

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        return codecs.decode_top_k(tensors, d)


class RandomK(WithErrorFeedback, Sparse):
    """The compression random-k sends numbers of an update from places that chance decides, in each round anew.

    Server and client draw the places from the same seed, so that the numbers alone are sent: 4 bytes each. Without
    error feedback they are multiplied by d/k, so that the update is right on average. Stich et al. 2018,
    arXiv:1809.07599; Konečný et al. 2016, arXiv:1610.05492, section 2.
    """

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        indices = self._indices(len(vector), generator)
        return codecs.encode_random_k(vector, indices, unbiased=not self.error_feedback)

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        return codecs.decode_random_k(tensors, self._indices(d, generator), d)

    def _indices(self, d: int, generator: np.random.Generator) -> np.ndarray:
        return codecs.random_indices(d, self.kept(d), generator)
