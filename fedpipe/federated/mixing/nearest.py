"""Nearest-neighbour mixing."""

from torch import Tensor

from fedpipe.federated.aggregation.robust import HostileFraction
from fedpipe.federated.aggregation.rules import hostile_among, mixed_with_nearest
from fedpipe.federated.mixing.base import Mixing


class NearestNeighbours(Mixing):
    """The mixing nnm puts the mean of an update and its n - f - 1 nearest others in the place of each update.

    Allouah et al. 2023, arXiv:2302.01772.
    """

    hostile: HostileFraction = 0.2

    def enough(self, updates: int) -> bool:
        return updates > 2 * self._f(updates)

    def mixed(self, updates: Tensor) -> Tensor:
        return mixed_with_nearest(updates, self._f(len(updates)))

    def _f(self, updates: int) -> int:
        return hostile_among(updates, self.hostile)
