"""What every compression is."""

from fedpipe.federated.transforms.base import Transform


class Compression(Transform):
    """Send updates as they are. Compressions differ from that; their fields are their parameters.

    A compression is the last transform on the client: its `on_client` encodes the delta (`Update.encoded`), and its
    `on_arrival` decodes it where updates are added up.
    """
