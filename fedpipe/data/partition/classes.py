"""Label skew by a fixed number of classes for each client."""

from typing import Literal

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveInt
from fedpipe.data.partition.base import ATTEMPTS, Partitioner, cut
from fedpipe.system.errors import ParameterError


class Classes(Partitioner):
    """Give each client examples of the same number of classes. The clients that hold a class share its examples.

    References:
        Li et al. 2022, arXiv:2102.02079 (NIID-Bench), "quantity-based label imbalance, #C = k", whose published code
        draws holders as `random` does. To balance them is fedpipe's own.
    """

    per_client: PositiveInt = Field(default=2, description="Each client holds examples of exactly this many classes.")
    holders: Literal["balanced", "random"] = Field(
        default="balanced",
        description=(
            "How the clients' classes are chosen. balanced: at random, so that the numbers of clients that hold each "
            "class differ by at most one. random: client i holds class i mod the number of classes, and draws the "
            "others at random, as in NIID-Bench; sizes then differ."
        ),
    )

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
        holders_by_class = self._holders(clients, len(present), rng)
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

    def _holders(self, clients: int, classes: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return for each class the clients that hold it.

        Raises:
            ParameterError: of the draws, none gives each class a client.
        """
        if self.holders == "balanced":
            return _balanced(clients, classes, self.per_client, rng)
        for _ in range(ATTEMPTS):
            holders = _random(clients, classes, self.per_client, rng)
            if all(map(len, holders)):
                return holders
        raise ParameterError(
            "partition.classes.holders",
            f"random: in {ATTEMPTS} draws some of the {classes} classes never had a client; balanced, or at least as "
            "many partition.clients as classes, would do",
        )


def _random(clients: int, classes: int, per_client: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return for each class the clients that hold it: client i holds class i mod classes, and others at random."""
    order = rng.random((clients, classes))
    order[np.arange(clients), np.arange(clients) % classes] = -1  # comes first
    held = np.argsort(order, axis=1)[:, :per_client]
    return [np.flatnonzero((held == label).any(axis=1)) for label in range(classes)]


def _balanced(clients: int, classes: int, per_client: int, rng: np.random.Generator) -> list[np.ndarray]:
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
