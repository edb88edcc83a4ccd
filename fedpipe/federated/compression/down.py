"""The server's model on its way to clients: encoded once a round, for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fedpipe.federated.compression.base import Compression
from fedpipe.federated.compression.entropy import EntropyCoding
from fedpipe.federated.messages import Broadcast
from fedpipe.system.randomness import generator

PURPOSE = "compression down"


@dataclass(frozen=True)
class DownLink:
    """Encode and decode the parameters that clients train and send; all else of a broadcast stays as it is.

    Clients train from the decoded model, and what they send is the difference to that. The server adds it to its own.
    """

    compression: Compression
    coding: EntropyCoding

    def encoded(self, broadcast: Broadcast, shapes: Mapping[str, torch.Size], seed: int) -> Broadcast:
        """Return the broadcast that is sent.

        Args:
            broadcast: with all parameters.
            shapes: of the parameters to encode, in their order.
            seed: of the experiment.
        """
        if self._changes_nothing:
            return broadcast
        draws = generator(seed, PURPOSE, round=broadcast.round)
        tensors = self.coding.shorter(self.compression.encode(broadcast.vector(tuple(shapes)), draws))
        others = {name: tensor for name, tensor in broadcast.parameters.items() if name not in shapes}
        return replace(broadcast, parameters=others, encoded=tensors)

    def decoded(self, broadcast: Broadcast, shapes: Mapping[str, torch.Size], seed: int) -> Broadcast:
        """Return the broadcast as clients understand it, likewise."""
        if self._changes_nothing:
            return broadcast
        draws = generator(seed, PURPOSE, round=broadcast.round)
        lengths = [shape.numel() for shape in shapes.values()]
        vector = self.compression.decode(self.coding.restored(broadcast.encoded), sum(lengths), draws)
        pieces = zip(shapes.items(), vector.split(lengths), strict=True)
        parameters = {name: piece.view(shape) for (name, shape), piece in pieces}
        return replace(broadcast, parameters={**broadcast.parameters, **parameters}, encoded={})

    @property
    def _changes_nothing(self) -> bool:
        return type(self.compression) is Compression and type(self.coding) is EntropyCoding
