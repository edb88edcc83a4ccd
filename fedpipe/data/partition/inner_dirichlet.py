"""Label skew by a mix of classes of each client's own, without unequal sizes."""

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveFloat
from fedpipe.data.partition.base import Partitioner, lengths, log_dirichlet

BLOCK = 2**16  # examples dealt at once


class InnerDirichlet(Partitioner):
    """Draw for each client its own mix of classes from a Dirichlet distribution, and fill it with examples.

    Client k's mix is drawn from Dir(alpha p), where p are the frequencies of the classes in the whole. Sizes are in
    proportion to the weights. Examples are dealt one at a time, to the clients in random order; each takes one of a
    class drawn from its mix. Of a class that is used up nobody takes any more: its probability becomes 0, and the
    others of each mix are scaled up to sum to 1. So the last examples of every client are of the classes that are
    left, whatever its mix; which of the clients comes first makes no difference on average.

    References:
        Hsu et al. 2019, arXiv:1909.06335, section 3. That classes are used up as described is Google's published
        code, which deals to the clients in turn. FedDyn's experiments (Acar et al. 2021, arXiv:2111.04263) deal in
        random order too, where each client that is not full is equally likely to be next, from Dir(alpha, ..., alpha);
        so do Flower and FedLab ("inner Dirichlet").
    """

    alpha: PositiveFloat = Field(
        default=0.5,
        description=(
            "Each client's mix of classes is drawn from Dir(alpha p), where p are the classes' frequencies in the "
            "whole. A small alpha gives each client few classes, a large one approaches iid."
        ),
    )

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        _, of_class, left = np.unique(labels, return_inverse=True, return_counts=True)
        sizes = lengths(weights, np.array(len(labels)))
        mixes = log_dirichlet(np.tile(self.alpha * left / len(labels), (len(sizes), 1)), rng)
        order = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))  # whose each example is, as they are dealt
        classes = _classes(mixes, order, left, rng)
        # The classes in which the examples are dealt, and the examples by class in random order, are brought together.
        shuffled = rng.permutation(len(labels))
        owner = np.empty(len(labels), dtype=int)
        owner[shuffled[np.argsort(of_class[shuffled], kind="stable")]] = order[np.argsort(classes, kind="stable")]
        return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])


def _classes(log_mixes: np.ndarray, order: np.ndarray, left: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the class of each example that is dealt.

    Args:
        log_mixes: (clients, classes) the logarithms of the clients' mixes.
        order: (n,) whose each example is.
        left: (classes,) how many examples there are of each class; together n.
        rng: draws.

    Returns:
        (n,) int; each class occurs as often as there are examples of it.
    """
    classes, left, done = np.empty(len(order), dtype=int), left.copy(), 0
    ends = _cumulative(log_mixes, left)
    while done < len(order):
        clients = order[done : done + BLOCK]
        drawn = (ends[clients] <= rng.random((len(clients), 1))).sum(axis=1)
        taken = np.cumsum(drawn[:, None] == np.arange(len(left)), axis=0)
        beyond = np.flatnonzero((taken > left).any(axis=1))  # draws after a class was used up, which count for nothing
        until = beyond[0] if len(beyond) else len(clients)
        classes[done : done + until] = drawn[:until]
        if until:
            left = left - taken[until - 1]
        done += until
        if len(beyond):
            ends = _cumulative(log_mixes, left)
    return classes


def _cumulative(log_mixes: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return where in 0..1 each class ends (clients, classes) if clients draw of those that are left by their mixes."""
    logs = np.where(left > 0, log_mixes, -np.inf)
    ends = np.cumsum(np.exp(logs - logs.max(axis=1, keepdims=True)), axis=1)
    return ends / ends[:, -1:]
