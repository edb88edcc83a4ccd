"""Feature skew: the same labels, but each client's images look different."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from fedpipe.params import Section


class Feature(Section):
    """Each client's images turned, blurred by noise and changed in contrast, by amounts of its own.

    rotation: an angle of -rotation..rotation degrees. noise: Gaussian, of a standard deviation of 0..noise, white being
    1. contrast: a factor of 1-contrast..1+contrast. All uniformly drawn. Compare Li et al. 2022, arXiv:2102.02079,
    section 3.2, and Hsieh et al. 2020, arXiv:1910.00189.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    noise: NonNegativeFloat = 0.1
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.5

    def apply(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """One client's images (n, 28, 28) uint8, as this client sees them."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transform  # here, because it takes a second

        angle, deviation = rng.uniform(-self.rotation, self.rotation), rng.uniform(0, self.noise)
        factor = rng.uniform(1 - self.contrast, 1 + self.contrast)
        looks = images.unsqueeze(1).float() / 255  # (n, 1, 28, 28)
        looks = transform.rotate(looks, angle, InterpolationMode.BILINEAR)
        looks = transform.adjust_contrast(looks, factor)
        if deviation > 0:
            looks = looks + deviation * torch.from_numpy(rng.standard_normal(looks.shape, dtype=np.float32))
        return (looks.clamp(0, 1) * 255).round().to(torch.uint8).squeeze(1)
