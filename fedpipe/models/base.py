"""What every model is, and the form in which its network takes images."""

from abc import abstractmethod
from typing import Self

import torch
from pydantic import PrivateAttr
from torch import Tensor, nn

from fedpipe.params import Section

# Of MNIST's training pixels in [0, 1]: the customary constants, fixed here so that no client's data sets them.
MEAN, STD = 0.1307, 0.3081


class Model(Section):
    """A network's architecture. Its fields are its parameters."""

    _classes: int = PrivateAttr(10)

    @property
    def classes(self) -> int:
        """How many it tells apart: the data set's matter, not a parameter."""
        return self._classes

    def for_classes(self, classes: int) -> Self:
        model = self.model_copy()
        model._classes = classes
        return model

    @abstractmethod
    def build(self) -> nn.Module:
        """A new network that maps images as `normalised` returns them to logits (n, classes)."""


def normalised(images: Tensor) -> Tensor:
    """uint8 (n, 28, 28) → float32 (n, 1, 28, 28), about zero mean and unit variance, channels last."""
    # (x/255 - mean) / std as one multiplication and one addition in place.
    scaled = images.unsqueeze(1).float().mul_(1 / (255 * STD)).sub_(MEAN / STD)
    return scaled.contiguous(memory_format=torch.channels_last)
