"""Label skew by pieces of the examples sorted by label: the pathological split of McMahan et al."""

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveInt
from fedpipe.data.partition.base import Partitioner, check_enough, cut


class LabelShards(Partitioner):
    """Sort the examples by label, cut them into per_client pieces for each client, and deal the pieces out at random.

    References:
        McMahan et al. 2017, arXiv:1602.05629, section 3: 200 pieces of 300 examples, two to each of 100 clients.
    """

    per_client: PositiveInt = Field(
        default=2, description="Each client gets this many pieces of the examples sorted by label."
    )

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients = len(weights)
        check_enough("shards.per_client", self.per_client, clients, len(labels))
        shuffled = rng.permutation(len(labels))
        ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owners = rng.permutation(np.repeat(np.arange(clients), self.per_client))
        pieces = cut(ordered, weights[owners])
        return [np.concatenate([pieces[i] for i in positions]) for positions in _positions(owners, clients)]


def _positions(owners: np.ndarray, clients: int) -> np.ndarray:
    """Return the positions (clients, pieces) at which each client occurs among the owners, all equally often."""
    return np.argsort(owners, kind="stable").reshape(clients, -1)
