"""Robust rules for each coordinate by itself."""

from torch import Tensor

from fedpipe.federated.aggregation.robust import Robust, RobustToFraction
from fedpipe.federated.aggregation.rules import coordinate_median, trimmed_mean
from fedpipe.federated.context import ServerContext


class Median(Robust):
    """The aggregation median takes the median of each parameter. Yin et al. 2018, arXiv:1803.01498, algorithm 1."""

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return coordinate_median(updates)


class TrimmedMean(RobustToFraction):
    """The aggregation trimmed-mean averages each parameter without its f largest and f smallest values.

    Yin et al. 2018, arXiv:1803.01498, algorithm 1.
    """

    def fewest(self, f: int) -> int:
        return 2 * f + 1

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return self.rule_of_buffers(updates)

    def rule_of_buffers(self, changes: Tensor) -> Tensor:
        return trimmed_mean(changes, self.f(len(changes)))
