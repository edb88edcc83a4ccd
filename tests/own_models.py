"""A network of one's own, as a user would write it in a file."""

from pydantic import Field, PositiveInt
from torch import nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec


class Narrow(Model):
    """One narrow hidden layer."""

    width: PositiveInt = Field(default=4, description="Width of the hidden layer.")

    def build(self, spec: DataSpec) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(spec.values, self.width), nn.Linear(self.width, spec.classes))
