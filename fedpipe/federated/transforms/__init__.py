"""What happens to updates between training and the sum, and to the aggregate between the sum and the server's step.

To add one: a file with a `Transform`, and its name in TRANSFORMS.
"""

from fedpipe.federated.transforms.base import Transform
from fedpipe.federated.transforms.clip import Clip

TRANSFORMS: dict[str, type[Transform]] = {
    "clip": Clip,
}
