"""Entropy coding: what is sent becomes shorter, and nothing is lost."""

from dataclasses import replace

import torch

from fedpipe.federated.compression.codecs import deflate, inflate
from fedpipe.federated.context import ArrivalContext, ClientContext
from fedpipe.federated.messages import Update
from fedpipe.federated.transforms.base import Transform


class Zlib(Transform):
    """Deflate what a compression has made of an update, or the update itself. RFC 1950 and 1951."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=torch.zeros(0), encoded=deflate(update.encoded or {"vector": update.delta}))

    def on_arrival(self, update: Update, context: ArrivalContext) -> Update:
        tensors = inflate(update.encoded)
        if tensors.keys() == {"vector"}:
            return replace(update, delta=tensors["vector"], encoded={})
        return replace(update, encoded=tensors)
