"""The interface of a partitioner, and what several partitioners share."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from fedpipe.config.section import Section
from fedpipe.system.errors import ParameterError

ATTEMPTS = 100  # draws of a partition before it is given up


class Partitioner(Section):
    """Divide labelled examples among clients. The fields are the partitioner's parameters."""

    by_owner: ClassVar[bool] = False  # whether `assign` is given, instead of labels, whose each example is, 0, 1, ...

    @abstractmethod
    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Divide the examples.

        Args:
            labels: (n,) int, 0..classes-1.
            weights: (clients,) float, the fraction of all examples that each client should get; they sum to 1, and are
                equal unless the scheme has quantity skew.
            rng: the only source of randomness.

        Returns:
            For each client the indices of its examples, in any order. They are disjoint and together 0..n-1.

        Raises:
            ParameterError: these labels cannot be divided with these parameters.
        """


def check_enough(parameter: str, each: int, clients: int, examples: int) -> None:
    """Check that there are enough examples to give each client as many as a parameter asks for.

    Args:
        parameter: its path below ``partition``, such as ``dirichlet.min_examples``.
        each: the number of examples for each client.
        clients: the number of clients.
        examples: the number of training examples.

    Raises:
        ParameterError: there are too few.
    """
    if clients * each > examples:
        raise ParameterError(
            f"partition.{parameter}", f"{each} for each of {clients} clients exceeds the {examples} training examples"
        )


def dirichlet(concentration: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw shares from a Dirichlet distribution.

    Args:
        concentration: (..., pieces) float, more than 0.
        rng: draws.

    Returns:
        (..., pieces) float; the shares of each draw sum to 1.
    """
    logs = log_dirichlet(concentration, rng)
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def log_dirichlet(concentration: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from a Dirichlet distribution as `dirichlet` does, and return logarithms of multiples of the shares.

    So they are finite where shares are too small for a float. A share is a gamma variate divided by the sum of all;
    log Gamma(a) is drawn as log Gamma(a + 1) + log(U) / a.

    References:
        Marsaglia & Tsang 2000, "A simple method for generating gamma variables", section 6.
    """
    concentration = np.maximum(concentration, 1e-300)  # below, log(U) / a may not be finite
    return np.log(rng.standard_gamma(concentration + 1)) + np.log1p(-rng.random(concentration.shape)) / concentration


def cut(order: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Cut `order` into consecutive pieces, each within one element of the length that its weight asks for."""
    return np.split(order, np.cumsum(lengths(weights, np.array(len(order))))[:-1])


def lengths(weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return how long the pieces are that weights cut a whole into.

    Args:
        weights: (..., pieces) float, the pieces' relative lengths.
        total: (...) int, the number of elements of each whole.

    Returns:
        (..., pieces) int; the pieces of a whole sum to its total.
    """
    ends = np.cumsum(weights, axis=-1)
    ends = np.round(ends / ends[..., -1:] * total[..., None]).astype(int)
    return np.diff(ends, axis=-1, prepend=0)
