"""One bit for each number: its sign."""

import numpy as np
from torch import Tensor

from fedpipe.federated.compression import codecs
from fedpipe.federated.compression.base import WithErrorFeedback
from fedpipe.federated.messages import State


class Sign(WithErrorFeedback):
    """The compression sign sends the sign of each number of an update, and the mean of their absolute values.

    Each takes a bit. Karimireddy et al. 2019, arXiv:1901.09847.
    """

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        return codecs.encode_sign(vector)

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        return codecs.decode_sign(tensors, d)
