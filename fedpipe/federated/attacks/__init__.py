"""What hostile clients do.

To add one: a file with an `Attack`, and its name in ATTACKS.
"""

from fedpipe.federated.attacks.alie import ALIE
from fedpipe.federated.attacks.backdoor import Backdoor
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.attacks.gaussian_noise import GaussianNoise
from fedpipe.federated.attacks.ipm import IPM
from fedpipe.federated.attacks.label_flip import LabelFlip
from fedpipe.federated.attacks.scaled import Scaled
from fedpipe.federated.attacks.sign_flip import SignFlip

ATTACKS: dict[str, type[Attack]] = {
    "none": Attack,
    "label-flip": LabelFlip,
    "sign-flip": SignFlip,
    "scaled": Scaled,
    "gaussian-noise": GaussianNoise,
    "alie": ALIE,
    "ipm": IPM,
    "backdoor": Backdoor,
}
