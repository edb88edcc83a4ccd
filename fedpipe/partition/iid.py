"""The examples shuffled and dealt out evenly."""

import numpy as np

from fedpipe.partition.base import Partitioner


class IID(Partitioner):
    """Each client an even, uniformly random part; sizes at most one apart. McMahan et al. 2017, section 3."""

    def assign(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), clients)]
