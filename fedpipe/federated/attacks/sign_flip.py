"""Sign flipping: attackers push the model back."""

from dataclasses import replace

from pydantic import Field

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update


class SignFlip(Attack):
    """The attack sign-flip sends the update that training gives times a negative number.

    Li et al. 2019, arXiv:1811.03761, section 5.
    """

    factor: PositiveFloat = Field(default=4.0, description="What is sent is minus this number times the update.")

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta * -self.factor)
