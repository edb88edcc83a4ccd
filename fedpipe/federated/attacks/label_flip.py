"""Label flipping: attackers learn, and teach, the wrong labels."""

import numpy as np
from torch import Tensor

from fedpipe.federated.attacks.base import Attack


class LabelFlip(Attack):
    """The attack label-flip trains on mirrored labels: class c of C becomes class C - 1 - c.

    Tolpegin et al. 2020, arXiv:2007.08432, flip labels in federated learning; the mirrored order is that of Allouah et
    al. 2023, arXiv:2302.01772, section 6.
    """

    def poison(self, images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return images, classes - 1 - labels
