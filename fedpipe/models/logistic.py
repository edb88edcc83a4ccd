"""Logistic regression: 7,850 parameters on MNIST."""

from torch import nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec


class Logistic(Model):
    """Logistic regression, one linear layer 784→10 on MNIST: a convex problem, on which theory can be checked."""

    def build(self, spec: DataSpec) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(spec.values, spec.classes))
