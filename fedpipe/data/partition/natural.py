"""The partition that the data set brings along."""

from typing import ClassVar

import numpy as np

from fedpipe.data.partition.base import Partitioner
from fedpipe.system.errors import ParameterError


class Natural(Partitioner):
    """Give each client of the data set its own examples, where the data set says whose each example is."""

    by_owner: ClassVar[bool] = True

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        owners, of_owner = np.unique(labels, return_inverse=True)  # `by_owner`: they say whose each example is
        if len(owners) != len(weights):
            raise ParameterError(
                "partition.clients",
                f"{len(weights)}, but the data has {len(owners)} clients of its own; take as many",
            )
        return [np.flatnonzero(of_owner == client) for client in range(len(owners))]
