"""The geometric median."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat, PositiveInt
from fedpipe.federated.aggregation.robust import Robust
from fedpipe.federated.aggregation.rules import geometric_median
from fedpipe.federated.context import ServerContext


class GeometricMedian(Robust):
    """The aggregation geometric-median takes the vector with the least sum of distances to the updates.

    Pillutla et al. 2022, arXiv:1912.13445, with updates that count the same.
    """

    nu: PositiveFloat = Field(
        default=1e-6, description="An update that is nearer than this counts as if it were this far away."
    )
    iterations: PositiveInt = Field(default=100, description="Iterations of the smoothed Weiszfeld algorithm, at most.")
    tolerance: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=1e-6,
        description="It ends earlier, after an iteration that moves the vector by less than this times the median "
        "distance of the updates from it.",
    )

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        return geometric_median(updates, self.nu, self.iterations, self.tolerance)
