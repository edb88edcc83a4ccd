"""What every model is."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedpipe.config.section import Section
from fedpipe.spec import DataSpec
from fedpipe.system.errors import ParameterError


class Model(Section):
    """Describe a family of networks. Its fields are its parameters; the data set decides about input and output."""

    smallest: ClassVar[int] = 1  # pixels that an image must have in height and width

    @abstractmethod
    def build(self, spec: DataSpec) -> nn.Module:
        """Return a new network that maps images (n, channels, height, width) float32 to logits (n, classes)."""

    def on(self, spec: DataSpec) -> "Architecture":
        """Return the model for the images and labels of a data set: all that a network is built from.

        Raises:
            ParameterError: the images are too small.
        """
        if min(spec.height, spec.width) < self.smallest:
            raise ParameterError(
                "model.name",
                f"needs images of at least {self.smallest} x {self.smallest} pixels, and those of the data set have "
                f"{spec.height} x {spec.width}; another model would do",
            )
        return Architecture(self, spec)


@dataclass(frozen=True)
class Architecture:
    """Say what network is trained: a model, and the images and labels that it is for."""

    model: Model
    spec: DataSpec

    def build(self) -> nn.Module:
        """Return a new network, initialised by torch's global generator."""
        return self.model.build(self.spec)
