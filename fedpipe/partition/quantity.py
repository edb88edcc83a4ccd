"""Quantity skew: clients of unequal size. Says how much each client has, not which examples."""

from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from fedpipe.params import Section
from fedpipe.partition.base import check_enough


class Quantity(Section):
    """The clients' parts of the whole.

    lognormal: proportional to exp(sigma · z), z standard normal; sigma = 0 makes all equal. power-law: proportional to
    (k + 1) ** -exponent for client k, so the first is the largest. Each has min_examples first, and its part of the
    rest on top. Li et al. 2020, arXiv:1812.06127, section 5.1 (power law); Caldas et al. 2018, arXiv:1812.01097.
    """

    law: Literal["lognormal", "power-law"] = "lognormal"
    sigma: NonNegativeFloat = 1.0
    exponent: NonNegativeFloat = 1.0
    min_examples: PositiveInt = 10

    def weights(self, examples: int, clients: int, rng: np.random.Generator) -> np.ndarray:
        """(clients,) float, sum 1.

        Raises:
            UserError: there are not min_examples for each client.
        """
        check_enough("quantity.min_examples", self.min_examples, clients, examples)
        least = self.min_examples / examples
        if self.law == "lognormal":
            logs = self.sigma * rng.standard_normal(clients)
        else:
            logs = -self.exponent * np.log(np.arange(1, clients + 1))
        parts = np.exp(logs - logs.max())
        return least + (1 - clients * least) * parts / parts.sum()
