"""Clipping of updates: no client moves the model further than a bound."""

from dataclasses import replace

from pydantic import Field

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update
from fedpipe.federated.transforms.base import Transform


class Clip(Transform):
    """The transform clip scales a client's update down if its L2 norm exceeds a bound.

    It scales what the strategy sends as the update of the parameters, not buffers, sums or scalars. McMahan et al.
    2018, arXiv:1710.06963, section 2.
    """

    voluntary = True

    norm: PositiveFloat = Field(default=1.0, description="Largest L2 norm of a client's update.")

    def on_client(self, update: Update, context: ClientContext) -> Update:
        norm = update.norm()
        if norm <= self.norm:
            return update
        return replace(update, delta=update.delta * (self.norm / norm))
