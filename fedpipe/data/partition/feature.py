"""Feature skew: images that look different from client to client. Labels stay as they are."""

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import NonNegativeFloat, Section
from fedpipe.system.errors import ParameterError


class Feature(Section):
    """Rotate each client's images, add noise and change their contrast, by amounts that differ between clients.

    References:
        Li et al. 2022, arXiv:2102.02079 (NIID-Bench), "noise-based feature imbalance" (increasing_noise); compare Hsieh
        et al. 2020, arXiv:1910.00189.
    """

    rotation: float = Field(
        default=30.0,
        ge=0,
        le=180,
        description=(
            "A client's images are all rotated by the same angle, drawn uniformly from -rotation to rotation degrees."
        ),
    )
    noise: NonNegativeFloat = Field(
        default=0.1,
        description=(
            "Gaussian noise is added to a client's images. Its standard deviation is drawn uniformly from 0 to noise, "
            "where black is 0 and white is 1."
        ),
    )
    increasing_noise: NonNegativeFloat = Field(
        default=0.0,
        description=(
            "Gaussian noise is added that increases from client to client: client i of N, counted from 1, gets noise "
            "of the variance increasing_noise * i / N besides. It is the sigma of the noise skew in NIID-Bench's "
            "paper, which is this alone."
        ),
    )
    contrast: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description=(
            "The contrast of a client's images is multiplied by a factor drawn uniformly from 1 - contrast to "
            "1 + contrast."
        ),
    )

    def apply(self, images: Tensor, rng: np.random.Generator, place: float) -> Tensor:
        """Return one client's images as they appear to that client.

        Args:
            images: (n, height, width, channels) uint8, grey or red, green and blue.
            rng: the generator of the client's angle, noise and contrast.
            place: the client's number, counted from 1, divided by that of all: more than 0, at most 1.

        Raises:
            ParameterError: the images have other channels.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transform  # here, because the import takes a second

        if images.shape[3] not in (1, 3):
            raise ParameterError("partition.scheme", f"feature: images have {images.shape[3]} channels, and not 1 or 3")
        angle, deviation = rng.uniform(-self.rotation, self.rotation), rng.uniform(0, self.noise)
        deviation = math.hypot(deviation, math.sqrt(self.increasing_noise * place))  # of both noises' sum
        factor = rng.uniform(1 - self.contrast, 1 + self.contrast)
        changed = images.permute(0, 3, 1, 2).contiguous().float() / 255  # (n, channels, height, width)
        changed = transform.rotate(changed, angle, InterpolationMode.BILINEAR)
        changed = transform.adjust_contrast(changed, factor)
        if deviation > 0:
            changed = changed + deviation * torch.from_numpy(rng.standard_normal(changed.shape, dtype=np.float32))
        return (changed.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
