"""Logistic regression: 7,850 parameters."""

from torch import nn

from fedpipe.models.base import Model


class Logistic(Model):
    """One linear layer, 784→10: a convex problem, on which algorithms can be compared with their theory."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, self.classes))
