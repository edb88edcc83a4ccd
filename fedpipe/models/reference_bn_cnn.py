"""The reference's CNN with batch normalisation: 29,034 parameters and 98 buffer values."""

import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.models.base import Model


class ReferenceBatchNormCNN(Model):
    """conv 5x5 1→16, batch norm, ReLU, max-pool, conv 5x5 16→32, batch norm, ReLU, max-pool, linear 1568→10.

    Batch normalisation: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    def build(self, classes: int) -> nn.Module:
        return _Network(classes)


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=5, padding=2)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5, padding=2)
        self.norm2 = nn.BatchNorm2d(32)
        self.linear = nn.Linear(32 * 7 * 7, classes)

    def forward(self, images: Tensor) -> Tensor:
        # Maximum and ReLU commute; pooling first leaves ReLU only a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.norm1(self.conv1(images)), 2))  # (n, 16, 14, 14)
        hidden = F.relu(F.max_pool2d(self.norm2(self.conv2(hidden)), 2))  # (n, 32, 7, 7)
        return self.linear(hidden.flatten(1))
