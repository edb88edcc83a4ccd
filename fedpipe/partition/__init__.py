"""Who gets which example. A partitioner sees labels and a generator, never images or files.

To add one: a file with a `Partitioner`, and its name in PARTITIONERS.
"""

import numpy as np
from pydantic import PositiveInt

from fedpipe.errors import UserError
from fedpipe.params import Section, choice
from fedpipe.partition.base import Partitioner
from fedpipe.partition.iid import IID
from fedpipe.randomness import generator

PARTITIONERS: dict[str, type[Partitioner]] = {
    "iid": IID,
}


@choice("scheme", PARTITIONERS)
class Partition(Section):
    """The training set among clients."""

    clients: PositiveInt = 8
    examples_per_client: PositiveInt | None = None
    scheme: str = "iid"

    @property
    def partitioner(self) -> Partitioner:
        return self.chosen("scheme")

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """For each client the indices of its examples among these (n,) labels, ascending.

        With examples_per_client the scheme divides not the examples themselves but clients * examples_per_client draws
        from them with replacement, so that a data set serves any number of clients; an index may occur again, also
        within a client.

        Raises:
            UserError: more clients than examples, or the scheme allows no such division.
        """
        rng = generator(seed, "partition")
        if self.examples_per_client is None:
            if self.clients > len(labels):
                raise UserError(
                    f"params.yaml: partition.clients: {self.clients} exceeds the {len(labels)} training examples; "
                    "partition.examples_per_client draws them with replacement"
                )
            return self.partitioner.assign(labels, self.clients, rng)
        size = self.clients * self.examples_per_client
        drawn = generator(seed, "examples with replacement").integers(len(labels), size=size)
        return [np.sort(drawn[part]) for part in self.partitioner.assign(labels[drawn], self.clients, rng)]
