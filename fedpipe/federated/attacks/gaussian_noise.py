"""Noise in the place of updates."""

from dataclasses import replace

import torch
from pydantic import Field

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update


class GaussianNoise(Attack):
    """The attack gaussian-noise sends independent normal numbers, and nothing that was learned.

    Blanchard et al. 2017, arXiv:1703.02757, section 5.
    """

    std: PositiveFloat = Field(default=0.1, description="Standard deviation of each number that is sent.")

    def on_client(self, update: Update, context: ClientContext) -> Update:
        noise = context.generator("attack by noise").normal(scale=self.std, size=len(update.delta))
        return replace(update, delta=torch.from_numpy(noise).to(update.delta.dtype))
