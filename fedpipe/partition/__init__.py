"""Who gets which example. A partitioner sees labels and a generator, never images or files.

To add one: a file with a `Partitioner`, and its name in PARTITIONERS.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor

from fedpipe.errors import UserError
from fedpipe.params import Section, with_blocks
from fedpipe.partition.base import Partitioner
from fedpipe.partition.classes import Classes
from fedpipe.partition.dirichlet import Dirichlet
from fedpipe.partition.feature import Feature
from fedpipe.partition.iid import IID
from fedpipe.partition.quantity import Quantity
from fedpipe.partition.shards import LabelShards
from fedpipe.randomness import generator

PARTITIONERS: dict[str, type[Partitioner]] = {
    "iid": IID,
    "shards": LabelShards,
    "classes": Classes,
    "dirichlet": Dirichlet,
}
# What may be joined to any of them with +, or stand alone, which means to iid.
QUANTITY, FEATURE = "quantity", "feature"
JOINED: dict[str, type[Section]] = {QUANTITY: Quantity, FEATURE: Feature}


def _scheme(value: str) -> str:
    names = value.split("+")
    if set(names) - {*PARTITIONERS, *JOINED}:
        raise ValueError(f"is not one of {_quoted(PARTITIONERS)}, nor of these and {_quoted(JOINED)} joined with +")
    if len(set(names)) < len(names) or len(set(names) & set(PARTITIONERS)) > 1:
        raise ValueError(f"at most one of {_quoted(PARTITIONERS)}, and of {_quoted(JOINED)} each once")
    return value


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


@with_blocks(PARTITIONERS | JOINED)
class Partition(Section):
    """The training set among clients."""

    clients: PositiveInt = 8
    examples_per_client: PositiveInt | None = None
    scheme: Annotated[str, AfterValidator(_scheme)] = "iid"
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def partitioner(self) -> Partitioner:
        """Who decides which examples a client has."""
        names = [name for name in self.scheme.split("+") if name in PARTITIONERS] or ["iid"]
        return getattr(self, names[0], None) or PARTITIONERS[names[0]]()

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """For each client the indices of its examples among these (n,) labels, ascending; at least one.

        With examples_per_client the scheme divides not the examples themselves but clients * examples_per_client draws
        from them with replacement, so that a data set serves any number of clients; an index may occur again, also
        within a client.

        Raises:
            UserError: more clients than examples, or the scheme allows no such division.
        """
        if self.examples_per_client is None:
            if self.clients > len(labels):
                raise UserError(
                    f"params.yaml: partition.clients: {self.clients} exceeds the {len(labels)} training examples; "
                    "partition.examples_per_client draws them with replacement"
                )
            drawn = np.arange(len(labels))
        else:
            size = self.clients * self.examples_per_client
            drawn = generator(seed, "examples with replacement").integers(len(labels), size=size)
        parts = self.partitioner.assign(labels[drawn], self._weights(len(drawn), seed), generator(seed, "partition"))
        if not all(map(len, parts)):
            raise UserError(
                f"params.yaml: partition.scheme: {self.scheme} leaves {sum(not len(part) for part in parts)} of "
                f"{self.clients} clients without examples; fewer partition.clients would do"
            )
        return [np.sort(drawn[part]) for part in parts]

    def hold_out(self, indices: np.ndarray, client: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """A client's examples as those it trains on and those it keeps for testing, a random part of them.

        At least one is left to train on.
        """
        kept = min(round(self.holdout * len(indices)), len(indices) - 1)
        if not kept:
            return indices, indices[:0]
        order = generator(seed, "holdout", client=client).permutation(len(indices))
        return np.sort(indices[order[kept:]]), np.sort(indices[order[:kept]])

    def look(self, images: Tensor, client: int, seed: int) -> Tensor:
        """A client's images (n, 28, 28) uint8 as this client sees them: changed only if `feature` is in the scheme."""
        if FEATURE not in self.scheme.split("+"):
            return images
        feature: Feature = getattr(self, FEATURE)
        return feature.apply(images, generator(seed, "feature", client=client))

    def _weights(self, examples: int, seed: int) -> np.ndarray:
        """(clients,) each client's part of the whole."""
        if QUANTITY not in self.scheme.split("+"):
            return np.full(self.clients, 1 / self.clients)
        quantity: Quantity = getattr(self, QUANTITY)
        return quantity.weights(examples, self.clients, generator(seed, "quantity"))
