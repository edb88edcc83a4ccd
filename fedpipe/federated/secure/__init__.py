"""How the server is kept from seeing single updates.

To add a protocol: a `SecureAggregation`, and its name in PROTOCOLS.
"""

from fedpipe.federated.secure.base import SecureAggregation
from fedpipe.federated.secure.bonawitz import Bonawitz

PROTOCOLS: dict[str, type[SecureAggregation]] = {
    "none": SecureAggregation,
    "bonawitz": Bonawitz,
}
