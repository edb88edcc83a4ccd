"""The paper's pathological split: few runs of the examples sorted by label."""

import numpy as np
from pydantic import PositiveInt

from fedpipe.partition.base import Partitioner, check_enough, cut


class LabelShards(Partitioner):
    """The examples sorted by label, cut into per_client pieces for each client, and the pieces dealt out at random.

    McMahan et al. 2017, arXiv:1602.05629, section 3: 200 pieces of 300, two to each of 100 clients.
    """

    per_client: PositiveInt = 2

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients = len(weights)
        check_enough("shards.per_client", self.per_client, clients, len(labels))
        shuffled = rng.permutation(len(labels))
        ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owners = rng.permutation(np.repeat(np.arange(clients), self.per_client))
        pieces = cut(ordered, weights[owners])
        return [np.concatenate([pieces[i] for i in own]) for own in _positions(owners, clients)]


def _positions(owners: np.ndarray, clients: int) -> list[np.ndarray]:
    """For each client where it occurs among the owners, each as often as the other."""
    return list(np.argsort(owners, kind="stable").reshape(clients, -1))
