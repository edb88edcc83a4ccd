"""What hostile clients do.

To add one: a file with an `Attack`, and its name in ATTACKS.
"""

from fedpipe.federated.attacks.base import Attack

ATTACKS: dict[str, type[Attack]] = {
    "none": Attack,
}
