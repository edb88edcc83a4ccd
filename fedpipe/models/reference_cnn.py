"""The CNN of "Federated Learning - Your Data Stays With You", and the same with batch normalisation."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec


class ReferenceCNN(Model):
    """conv 5x5 1→16, ReLU, max-pool, conv 5x5 16→32, ReLU, max-pool, linear 1568→10: 28,938 parameters on MNIST."""

    smallest: ClassVar[int] = 4

    def build(self, spec: DataSpec) -> nn.Module:
        return _Network(spec, nn.Identity(), nn.Identity())


class ReferenceBatchNormCNN(Model):
    """The reference's CNN with batch normalisation after each convolution.

    On MNIST it has 29,034 parameters and 98 buffer values. Batch normalisation: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    smallest: ClassVar[int] = 4

    def build(self, spec: DataSpec) -> nn.Module:
        return _Network(spec, nn.BatchNorm2d(16), nn.BatchNorm2d(32))


class _Network(nn.Module):
    def __init__(self, spec: DataSpec, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.channels, 16, kernel_size=5, padding=2)
        self.norm1 = norm1
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5, padding=2)
        self.norm2 = norm2
        self.linear = nn.Linear(32 * (spec.height // 4) * (spec.width // 4), spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        # Maximum and ReLU commute; pooling first leaves ReLU only a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.norm1(self.conv1(images)), 2))  # (n, 16, height / 2, width / 2)
        hidden = F.relu(F.max_pool2d(self.norm2(self.conv2(hidden)), 2))  # (n, 32, height / 4, width / 4)
        return self.linear(hidden.flatten(1))
