"""A small residual network for colour images, with group normalisation."""

from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec

WIDTHS = 16, 32, 64  # channels of the three stages; each multiple of GROUPS
GROUPS = 8  # of channels, which are normalised together


class ResNet(Model):
    """Residual network for small images, 6 blocks + 2 layers deep, with group in place of batch normalisation.

    With one block and three channels it has 75,290 parameters. Batch normalisation ties a client's model to its own
    labels; group normalisation does not, which is why it is the usual choice where data is not IID.

    References:
        He et al. 2016, arXiv:1512.03385, section 4.2 (the network, with shortcuts of option A); Wu & He 2018,
        arXiv:1803.08494 (group normalisation); Hsieh et al. 2020, arXiv:1910.00189, section 5 (the reason).
    """

    smallest: ClassVar[int] = 4

    blocks: int = Field(
        default=1,
        ge=1,
        le=18,
        description="Residual blocks in each of the three stages: 1 for ResNet-8, 3 for ResNet-20.",
    )

    def build(self, spec: DataSpec) -> nn.Module:
        return _Network(spec, self.blocks)


class _Network(nn.Module):
    def __init__(self, spec: DataSpec, blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(spec.channels, WIDTHS[0], kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, WIDTHS[0])
        inputs = [WIDTHS[0], *(width for width in WIDTHS for _ in range(blocks))]
        self.blocks = nn.Sequential(*(_Block(before, after) for before, after in pairwise(inputs)))
        self.output = nn.Linear(WIDTHS[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.norm(self.conv(images))))  # (n, 64, height / 4, width / 4)
        return self.output(hidden.mean((2, 3)))


class _Block(nn.Module):
    """Add to the input what two convolutions make of it. The first halves height and width where channels double."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == after else (2, after - before)
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, after)
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, after)

    def forward(self, images: Tensor) -> Tensor:
        # Option A: the shortcut has no parameters; it takes every second pixel, and zeros for the new channels.
        shortcut = F.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        hidden = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(hidden)) + shortcut)
