"""Label skew by a fixed number of classes for each client."""

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveInt
from fedpipe.data.partition.base import Partitioner, cut
from fedpipe.system.errors import ParameterError


class Classes(Partitioner):
    """Give each client examples of the same number of classes. The clients that hold a class share its examples.

    The numbers of clients that hold each class differ by at most one.

    References:
        Li et al. 2022, arXiv:2102.02079, section 3.1 ("#C = k").
    """

    per_client: PositiveInt = Field(default=2, description="Each client holds examples of exactly this many classes.")

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients, present = len(weights), np.unique(labels)
        if self.per_client > len(present):
            raise ParameterError(
                "partition.classes.per_client", f"{self.per_client} exceeds the {len(present)} classes"
            )
        if clients * self.per_client < len(present):
            raise ParameterError(
                "partition.classes.per_client",
                f"{clients} clients of {self.per_client} hold at most {clients * self.per_client} of the "
                f"{len(present)} classes",
            )
        pieces: list[list[np.ndarray]] = [[] for _ in range(clients)]
        holders_by_class = _holders(clients, len(present), self.per_client, rng)
        for label, holders in zip(present, holders_by_class, strict=True):
            examples = rng.permutation(np.flatnonzero(labels == label))
            if len(examples) < len(holders):
                raise ParameterError(
                    "partition.classes",
                    f"{len(holders)} clients share class {label}, which has {len(examples)} examples; "
                    "fewer partition.clients would do",
                )
            for client, piece in zip(holders, cut(examples, weights[holders]), strict=True):
                pieces[client].append(piece)
        return [np.concatenate(client_pieces) for client_pieces in pieces]


def _holders(clients: int, classes: int, per_client: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return for each class the clients that hold it.

    Each client in turn takes the classes with the fewest holders so far; ties are broken at random.
    """
    holders: list[list[int]] = [[] for _ in range(classes)]
    taken = np.zeros(classes, dtype=int)  # the number of holders so far
    for client in range(clients):
        for label in np.lexsort((rng.random(classes), taken))[:per_client]:
            taken[label] += 1
            holders[label].append(client)
    return [np.array(class_holders) for class_holders in holders]
