"""What every partitioner is."""

from abc import abstractmethod

import numpy as np

from fedpipe.params import Section


class Partitioner(Section):
    """A way to divide examples among clients. Its fields are its parameters."""

    @abstractmethod
    def assign(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Divides the examples.

        Args:
            labels: (n,) int, 0..classes-1.
            clients: how many, 1..n.
            rng: the only source of chance.

        Returns:
            For each client the indices of its examples, ascending: disjoint, together all of 0..n-1.

        Raises:
            UserError: the parameters allow no such division of these labels.
        """
