"""Scaling: attackers pull harder than others."""

from dataclasses import replace

from pydantic import Field

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update


class Scaled(Attack):
    """The attack scaled sends the update that training gives times a large number.

    A cohort's mean is then the attackers' own. Bhagoji et al. 2019, arXiv:1811.12470, call it explicit boosting.
    """

    factor: PositiveFloat = Field(default=10.0, description="What is sent is this number times the update.")

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta * self.factor)
