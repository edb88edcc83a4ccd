"""How what clients' examples tell is bounded.

To add one: a file with a `Mechanism`, and its name in MECHANISMS.
"""

from fedpipe.federated.mechanisms.base import Mechanism
from fedpipe.federated.mechanisms.gaussian import Gaussian
from fedpipe.federated.mechanisms.tree import Tree

MECHANISMS: dict[str, type[Mechanism]] = {
    "none": Mechanism,
    "gaussian": Gaussian,
    "tree": Tree,
}
