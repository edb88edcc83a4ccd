"""Aggregations that clip updates where they arrive, so that no client can leave it out."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat, PositiveInt
from fedpipe.federated.aggregation.mean import ExactSum, Mean
from fedpipe.federated.aggregation.robust import Robust
from fedpipe.federated.aggregation.rules import bounded, centered_clipping
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Update


class CenteredClipping(Robust):
    """The aggregation centered-clipping moves the last aggregate by the updates' clipped differences from it.

    It is their mean, and before the first round the aggregate is 0. Karimireddy et al. 2021, arXiv:2012.10333.
    """

    radius: PositiveFloat = Field(
        default=2.0, description="L2 norm to which the difference of an update from the centre is scaled down."
    )
    iterations: PositiveInt = Field(default=3, description="How often the centre moves in a round.")

    def rule(self, updates: Tensor, context: ServerContext) -> Tensor:
        centre = context.state.get("centre", torch.zeros(updates.shape[1], dtype=torch.float64))
        context.state["centre"] = centered_clipping(updates, centre, self.radius, self.iterations)
        return context.state["centre"]


class NormBounding(Mean):
    """The aggregation norm-bounding averages as mean does, after scaling long updates down to a bound.

    Unlike the transform clip, it is the server that scales, so that no client can leave it out. It bounds the update of
    the parameters, not buffers. Sun et al. 2019, arXiv:1911.07963.
    """

    robust = True
    maskable = False  # nobody can bound what is masked

    norm: PositiveFloat = Field(default=3.0, description="Largest L2 norm with which an update counts.")

    def contribution(self, update: Update) -> ExactSum:
        return super().contribution(replace(update, delta=bounded(update.delta, self.norm)))
