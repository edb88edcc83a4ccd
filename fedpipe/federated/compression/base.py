"""What every compression is."""

from dataclasses import replace
from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.context import ArrivalContext, ClientContext
from fedpipe.federated.messages import State, Update
from fedpipe.federated.transforms.base import Transform

PURPOSE = "compression"  # of the draws that the client makes, and the receiver too if it needs them


class Compression(Transform):
    """Send updates as they are. Compressions differ from that; their fields are their parameters.

    A compression is the last transform but the entropy coding. It says how a vector becomes tensors (`encode`) and what
    the receiver makes of these (`decode`). Of an update it encodes the delta; buffers, sums and scalars are sent as
    they are.
    """

    @property
    def has_client_state(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether clients remember anything from round to round."""
        return False

    def encode(self, vector: Tensor, generator: np.random.Generator) -> State:
        """Return the tensors that are sent in place of a (d,) float32 vector."""
        return {"vector": vector}

    def decode(self, tensors: State, d: int, generator: np.random.Generator) -> Tensor:
        """Return the (d,) float32 vector that such tensors stand for.

        Args:
            tensors: as `encode` returned them.
            d: the vector's length.
            generator: as `encode` had it, at its beginning.

        Raises:
            KeyError: a tensor is missing.
            ValueError: the tensors do not fit each other, or d.
        """
        return tensors["vector"]

    def down(self) -> Self:
        """Return what the server encodes its model with, if `federated.compression_down` names this."""
        return self

    def on_client(self, update: Update, context: ClientContext) -> Update:
        tensors = self.encode(update.delta, context.generator(PURPOSE))
        return replace(update, delta=torch.zeros(0), encoded=tensors)

    def on_arrival(self, update: Update, context: ArrivalContext) -> Update:
        try:
            delta = self.decode(update.encoded, context.dimension, context.generator(PURPOSE))
            if len(delta) != context.dimension:
                raise ValueError(f"it has {len(delta)} numbers and not {context.dimension}")
        except (KeyError, ValueError) as error:
            raise Refused(f"it cannot be decoded: {error}") from error
        return replace(update, delta=delta, encoded={})


class WithErrorFeedback(Compression):
    """A compression that may add what it lost of a client's update to the client's next one.

    Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2; Seide et al. 2014 had it for 1 bit.
    """

    error_feedback: bool = Field(
        default=True,
        description="Whether a client remembers what its update lost on the way, and adds it to its next update. It "
        "helps clients that take part often.",
    )

    @property
    def has_client_state(self) -> bool:
        return self.error_feedback

    def on_client(self, update: Update, context: ClientContext) -> Update:
        if not self.error_feedback:
            return super().on_client(update, context)
        wanted = update.delta + context.remembered("error")
        sent = super().on_client(replace(update, delta=wanted), context)
        arrived = self.decode(sent.encoded, len(wanted), context.generator(PURPOSE))
        context.state["error"] = wanted - arrived
        return sent
