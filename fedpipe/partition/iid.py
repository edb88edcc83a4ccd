"""The examples shuffled and dealt out."""

import numpy as np

from fedpipe.partition.base import Partitioner, cut


class IID(Partitioner):
    """Each client a uniformly random part. McMahan et al. 2017, arXiv:1602.05629, section 3."""

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        return cut(rng.permutation(len(labels)), weights)
