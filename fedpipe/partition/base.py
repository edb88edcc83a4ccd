"""What every partitioner is, and how it cuts."""

from abc import abstractmethod

import numpy as np

from fedpipe.errors import UserError
from fedpipe.params import Section


class Partitioner(Section):
    """A way to divide labelled examples among clients. Its fields are its parameters."""

    @abstractmethod
    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Divides the examples.

        Args:
            labels: (n,) int, 0..classes-1.
            weights: (clients,) float, the part of all examples that each client is to have; they sum to 1. All equal,
                unless `quantity` was asked for.
            rng: the only source of chance.

        Returns:
            For each client the indices of its examples, in any order: disjoint, together all of 0..n-1.

        Raises:
            UserError: the parameters allow no such division of these labels.
        """


def check_enough(parameter: str, each: int, clients: int, examples: int) -> None:
    """Raises UserError if there are not so many examples for each client, as this parameter wants."""
    if clients * each > examples:
        raise UserError(
            f"params.yaml: partition.{parameter}: {each} for each of {clients} clients "
            f"exceeds the {examples} training examples"
        )


def cut(order: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Consecutive pieces of `order`, as long as the weights say, to less than one element."""
    return np.split(order, np.cumsum(lengths(weights, np.array(len(order))))[:-1])


def lengths(weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(..., pieces) weights → how long pieces of (...) elements are, as whole numbers that add up to all elements."""
    ends = np.cumsum(weights, axis=-1)
    ends = np.round(ends / ends[..., -1:] * total[..., None]).astype(int)
    return np.diff(ends, axis=-1, prepend=0)
