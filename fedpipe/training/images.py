"""The form in which networks take images."""

from functools import lru_cache

import torch
from torch import Tensor

from fedpipe.spec import DataSpec


def normalised(images: Tensor, spec: DataSpec) -> Tensor:
    """Return images (n, height, width, channels) uint8 as (n, channels, height, width) float32, channels last.

    They are about zero mean and unit variance, if mean and standard deviation are those of the images.
    """
    # (x / 255 - mean) / std as one multiplication and one subtraction in place.
    scaled = images.float()
    if spec.channels == 1:
        scaled.mul_(1 / (255 * spec.std[0])).sub_(spec.mean[0] / spec.std[0])
        return scaled.view(-1, 1, spec.height, spec.width)
    factor, offset = _rows(spec, images.device)
    scaled.view(-1, spec.width * spec.channels).mul_(factor).sub_(offset)
    return scaled.permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _rows(spec: DataSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return factor and offset for each value of a row of pixels: whole rows are four times as fast as pixels."""
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (spec.mean, spec.std))
    factor, offset = ((row.repeat(spec.width).to(device, torch.float32)) for row in (1 / (255 * std), mean / std))
    return factor, offset
