"""What every attack is: what hostile clients do with their examples, and what they send."""

from typing import ClassVar

import numpy as np
from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update
from fedpipe.system.randomness import generator


class Attack(Section):
    """Do what honest clients do. Attacks differ from that; their fields are their parameters.

    An attacker may train on other examples (`poison`), and send another update than the one that training gives
    (`on_client`), of the parameters alone. Attackers that know each other's updates and those of honest clients choose
    theirs when all have arrived (`collude`).
    """

    colludes: ClassVar[bool] = False  # whether attackers see what all others send
    has_trigger: ClassVar[bool] = False  # whether a trigger in an image is to make the model answer as they like

    def poison(self, images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the examples that an attacker trains on in place of its own.

        Args:
            images: (n, height, width, channels) uint8.
            labels: (n,) int64.
            classes: how many labels there are.
            rng: of this attacker and round.
        """
        return images, labels

    def on_client(self, update: Update, context: ClientContext) -> Update:
        """Return what an attacker sends in place of this update."""
        return update

    def collude(self, honest: Tensor, attackers: Tensor) -> Tensor:
        """Return the update that each attacker sends, knowing all.

        Args:
            honest: (h, d) float64, the deltas of the honest clients of the round.
            attackers: (a, d) float64, those that the attackers of the round would send if they were honest.

        Returns:
            (a, d) float64.
        """
        return attackers

    def triggered(self, images: Tensor) -> Tensor:
        """Return images with the trigger in them: (n, height, width, channels) uint8, as given."""
        return images

    def success(self, confusion: Tensor) -> float:
        """Return how often a trigger works, as a fraction.

        Args:
            confusion: (classes, classes) int64, images with the trigger by actual and predicted class.
        """
        return 0.0


def attackers(seed: int, clients: int, fraction: float) -> frozenset[int]:
    """Draw which clients are hostile: this fraction of them, rounded to a whole number."""
    rng = generator(seed, "attackers")
    return frozenset(rng.choice(clients, round(fraction * clients), replace=False).tolist())
