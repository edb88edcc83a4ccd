"""Krum and its relatives: trust the updates that have many near neighbours."""

from torch import Tensor

from fedpipe.federated.aggregation.robust import RobustToFraction
from fedpipe.federated.aggregation.rules import bulyan, krum, multi_krum
from fedpipe.federated.context import ServerContext


class Krum(RobustToFraction):
    """The aggregation krum takes the one update that is nearest to its n - f - 2 nearest neighbours.

    Blanchard et al. 2017, arXiv:1703.02757.
    """

    def fewest(self, f: int) -> int:
        return 2 * f + 3

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return krum(updates, self.f(len(updates)))


class MultiKrum(Krum):
    """The aggregation multi-krum averages the n - f updates that Krum would choose first.

    Blanchard et al. 2017, arXiv:1703.02757.
    """

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return multi_krum(updates, self.f(len(updates)))


class Bulyan(RobustToFraction):
    """The aggregation bulyan averages, of n - 2f updates that Krum chooses, the n - 4f values nearest to each median.

    El Mhamdi et al. 2018, arXiv:1802.07927.
    """

    def fewest(self, f: int) -> int:
        return 4 * f + 3

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return bulyan(updates, self.f(len(updates)))
