"""Logistic regression: 7,850 parameters."""

from torch import nn

from fedpipe.models.base import Model


class Logistic(Model):
    """Logistic regression, one linear layer 784→10: a convex problem, on which theory can be checked."""

    def build(self, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
