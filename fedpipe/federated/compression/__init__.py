"""How updates are made smaller before they are sent.

To add one: a file with a `Compression`, and its name in COMPRESSIONS.
"""

from fedpipe.federated.compression.base import Compression

COMPRESSIONS: dict[str, type[Compression]] = {
    "none": Compression,
}
