"""What every model is."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from fedpipe.config.section import Section


class Model(Section):
    """Describe a family of networks. Its fields are its parameters; the data set decides how many classes it has."""

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """Return a new network that maps images (n, 1, 28, 28) float32 to logits (n, classes)."""

    def for_classes(self, classes: int) -> "Architecture":
        """Return the model with the data set's number of classes: all that a network is built from."""
        return Architecture(self, classes)


@dataclass(frozen=True)
class Architecture:
    """Say what network is trained: a model, and the number of classes it tells apart."""

    model: Model
    classes: int

    def build(self) -> nn.Module:
        """Return a new network, initialised by torch's global generator."""
        return self.model.build(self.classes)
