"""A little is enough: attackers stay within the spread of honest updates."""

from statistics import NormalDist

from pydantic import Field
from torch import Tensor

from fedpipe.config.section import NonNegativeFloat
from fedpipe.federated.attacks.base import Attack


class ALIE(Attack):
    """The attack alie sends the mean of the honest updates less z standard deviations of them, in each coordinate.

    All attackers send the same. With n updates, m of them hostile, attackers need s = ⌊n / 2 + 1⌋ - m honest clients
    for a majority. They go as far from the mean as these are expected to be: Φ(z) = (n - m - s) / (n - m). Baruch et
    al. 2019, arXiv:1902.06635, algorithm 3. The paper's attackers estimate mean and deviation from what they know;
    these know every update.
    """

    colludes = True

    z: NonNegativeFloat | None = Field(
        default=None, description="Standard deviations from the mean; null computes them from the numbers of clients."
    )

    def collude(self, honest: Tensor, attackers: Tensor) -> Tensor:
        z = z_max(len(honest), len(attackers)) if self.z is None else self.z
        deviation = honest.std(dim=0, correction=0)
        return (honest.mean(dim=0) - z * deviation).expand_as(attackers)


def z_max(honest: int, hostile: int) -> float:
    """Return how many standard deviations attackers may go from the mean; 0 if no majority can be had.

    Args:
        honest: n - m, the honest clients of the round.
        hostile: m, the hostile ones.
    """
    supporters = max(1, (honest + hostile) // 2 + 1 - hostile)  # where attackers are the majority, one is enough
    share = (honest - supporters) / honest
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0
