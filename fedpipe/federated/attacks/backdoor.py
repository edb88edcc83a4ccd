"""A backdoor: a patch in an image that makes the model answer what the attackers like."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import NonNegativeInt, PositiveFloat, PositiveInt
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update

WHITE = 255


class Backdoor(Attack):
    """The attack backdoor teaches the model to take any image with a white patch in its corner for one class.

    An attacker puts the patch on some of its images, gives them the target's label, and trains on all; its update may
    be scaled up. The reports give the success rate: of the images of other classes, the fraction that the model takes
    for the target when they bear the patch. Gu et al. 2017, arXiv:1708.06733; Bagdasaryan et al. 2018,
    arXiv:1807.00459.
    """

    has_trigger = True

    target: NonNegativeInt = Field(default=0, description="The class that images with the patch are to be taken for.")
    patch: PositiveInt = Field(default=4, description="Height and width of the patch, in pixels.")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="The fraction of an attacker's images that bear the patch."
    )
    factor: PositiveFloat = Field(default=1.0, description="What is sent is this number times the update.")

    def poison(self, images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rng.random(len(labels)) < self.fraction).to(labels.device)
        patched = torch.where(chosen.view(-1, 1, 1, 1), self.triggered(images), images)
        return patched, torch.where(chosen, self.target, labels)

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta * self.factor)

    def triggered(self, images: Tensor) -> Tensor:
        patched = images.clone()
        patched[:, -self.patch :, -self.patch :] = WHITE
        return patched

    def success(self, confusion: Tensor) -> float:
        others = torch.arange(len(confusion)) != self.target
        return int(confusion[others, self.target].sum()) / int(confusion[others].sum())
