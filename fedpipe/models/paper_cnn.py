"""The CNN of McMahan et al. 2017: 1,663,370 parameters on MNIST."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec


class PaperCNN(Model):
    """Two 5x5 convolutions of 32 and 64 channels, each followed by 2x2 max-pooling, then 3136→512→10 with ReLU.

    The sizes are those on MNIST. McMahan et al. 2017, arXiv:1602.05629, section 3.
    """

    smallest: ClassVar[int] = 4

    def build(self, spec: DataSpec) -> nn.Module:
        return _Network(spec)


class _Network(nn.Module):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.channels, 32, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=5, padding=2)
        self.hidden = nn.Linear(64 * (spec.height // 4) * (spec.width // 4), 512)
        self.output = nn.Linear(512, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        # Maximum and ReLU commute; pooling first leaves ReLU only a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2))  # (n, 32, height / 2, width / 2)
        hidden = F.relu(F.max_pool2d(self.conv2(hidden), 2))  # (n, 64, height / 4, width / 4)
        return self.output(F.relu(self.hidden(hidden.flatten(1))))
