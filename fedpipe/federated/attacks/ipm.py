"""Inner product manipulation: attackers point away from where honest clients go."""

from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.attacks.base import Attack


class IPM(Attack):
    """The attack ipm sends the mean of the honest updates times a negative number.

    All attackers send the same. Of a small number, the result may still point away from the honest mean, where a
    defence lets it through for its smallness. Xie et al. 2019, arXiv:1903.03936, section 4.
    """

    colludes = True

    epsilon: PositiveFloat = Field(
        default=0.5, description="What is sent is minus this number times the mean of the honest updates."
    )

    def collude(self, honest: Tensor, attackers: Tensor) -> Tensor:
        return (honest.mean(dim=0) * -self.epsilon).expand_as(attackers)
