"""Entropy coding: what is sent becomes shorter, and nothing is lost."""

from dataclasses import replace

from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.compression.codecs import deflate, inflate
from fedpipe.federated.context import ArrivalContext, ClientContext
from fedpipe.federated.messages import State, Update
from fedpipe.federated.transforms.base import Transform


class EntropyCoding(Transform):
    """Send a compression's tensors as they are. Entropy codings differ from that."""

    def shorter(self, tensors: State) -> State:
        """Return the tensors that are sent in place of a compression's."""
        return tensors

    def restored(self, tensors: State) -> State:
        """Undo `shorter`.

        Raises:
            ValueError: nothing becomes such tensors.
        """
        return tensors

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, encoded=self.shorter(update.encoded))

    def on_arrival(self, update: Update, context: ArrivalContext) -> Update:
        try:
            return replace(update, encoded=self.restored(update.encoded))
        except ValueError as error:
            raise Refused(f"it cannot be decoded: {error}") from error


class Zlib(EntropyCoding):
    """The entropy coding zlib deflates what a compression makes of a vector, or the vector. RFC 1950 and 1951."""

    def shorter(self, tensors: State) -> State:
        return deflate(tensors)

    def restored(self, tensors: State) -> State:
        return inflate(tensors)
