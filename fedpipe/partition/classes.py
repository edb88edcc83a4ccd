"""A few classes a client, and these shared evenly."""

import numpy as np
from pydantic import PositiveInt

from fedpipe.errors import UserError
from fedpipe.partition.base import Partitioner, cut


class Classes(Partitioner):
    """Each client has examples of exactly per_client classes; those who hold a class share its examples.

    Classes have as many holders as each other, to one. Li et al. 2022, arXiv:2102.02079, section 3.1 ("#C = k").
    """

    per_client: PositiveInt = 2

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients, present = len(weights), np.unique(labels)
        if self.per_client > len(present):
            raise UserError(
                f"params.yaml: partition.classes.per_client: {self.per_client} exceeds the {len(present)} classes"
            )
        if clients * self.per_client < len(present):
            raise UserError(
                f"params.yaml: partition.classes.per_client: {clients} clients of {self.per_client} hold at most "
                f"{clients * self.per_client} of the {len(present)} classes"
            )
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        holders = _holders(clients, len(present), self.per_client, rng)
        for label, who in zip(present, holders, strict=True):
            examples = rng.permutation(np.flatnonzero(labels == label))
            if len(examples) < len(who):
                raise UserError(
                    f"params.yaml: partition.classes: {len(who)} clients share class {label}, "
                    f"which has {len(examples)} examples; fewer partition.clients would do"
                )
            for client, part in zip(who, cut(examples, weights[who]), strict=True):
                parts[client].append(part)
        return [np.concatenate(part) for part in parts]


def _holders(clients: int, classes: int, per_client: int, rng: np.random.Generator) -> list[np.ndarray]:
    """For each class its clients: each client takes the classes that fewest have taken before, ties by lot."""
    taken = np.zeros(classes, dtype=int)
    holders: list[list[int]] = [[] for _ in range(classes)]
    for client in range(clients):
        for label in np.lexsort((rng.random(classes), taken))[:per_client]:
            taken[label] += 1
            holders[label].append(client)
    return [np.array(who) for who in holders]
