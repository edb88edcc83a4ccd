"""How updates are made more alike before they become one.

To add one: a file with a `Mixing`, and its name in MIXINGS.
"""

from fedpipe.federated.mixing.base import Mixing
from fedpipe.federated.mixing.nearest import NearestNeighbours

MIXINGS: dict[str, type[Mixing]] = {
    "none": Mixing,
    "nnm": NearestNeighbours,
}
