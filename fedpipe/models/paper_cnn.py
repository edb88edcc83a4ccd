"""The CNN of McMahan et al. 2017: 1,663,370 parameters."""

import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.models.base import Model


class PaperCNN(Model):
    """Two 5x5 convolutions of 32 and 64 channels, each followed by 2x2 max-pooling, then 3136→512→10 with ReLU.

    McMahan et al. 2017, arXiv:1602.05629, section 3.
    """

    def build(self, classes: int) -> nn.Module:
        return _Network(classes)


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=5, padding=2)
        self.hidden = nn.Linear(64 * 7 * 7, 512)
        self.output = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        # Maximum and ReLU commute; pooling first leaves ReLU only a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2))  # (n, 32, 14, 14)
        hidden = F.relu(F.max_pool2d(self.conv2(hidden), 2))  # (n, 64, 7, 7)
        return self.output(F.relu(self.hidden(hidden.flatten(1))))
