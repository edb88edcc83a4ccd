"""A partition without skew."""

import numpy as np

from fedpipe.data.partition.base import Partitioner, cut


class IID(Partitioner):
    """Give each client a uniformly random part of the examples.

    References:
        McMahan et al. 2017, arXiv:1602.05629, section 3.
    """

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        return cut(rng.permutation(len(labels)), weights)
