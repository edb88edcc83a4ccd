"""Quantity skew: clients of unequal size. It decides how many examples each client has, not which."""

from typing import Literal

import numpy as np
from pydantic import Field

from fedpipe.config.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section
from fedpipe.data.partition.base import check_enough, log_dirichlet


class Quantity(Section):
    """Make the clients' numbers of examples unequal.

    References:
        Li et al. 2020, arXiv:1812.06127, section 5.1 (power law); Li et al. 2022, arXiv:2102.02079 (NIID-Bench),
        "quantity skew" (dirichlet; there, sizes are drawn again until the smallest is 10); Caldas et al. 2018,
        arXiv:1812.01097.
    """

    law: Literal["lognormal", "power-law", "dirichlet"] = Field(
        default="lognormal", description="The clients' sizes follow this distribution."
    )
    sigma: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Under the lognormal law, a client's size is proportional to exp(sigma z), with z standard normal; sigma 0 "
            "makes all sizes equal."
        ),
    )
    exponent: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Under the power law, the sizes are proportional to k ** -exponent with k = 1, 2, ...; which client has "
            "which is drawn at random."
        ),
    )
    beta: PositiveFloat = Field(
        default=0.5,
        description=(
            "Under the dirichlet law, the sizes are proportional to shares drawn from Dir(beta, ..., beta): the "
            "smaller beta, the more they differ."
        ),
    )
    min_examples: PositiveInt = Field(
        default=10,
        description="Each client is allotted this many examples first, and the law divides the rest.",
    )

    def weights(self, examples: int, clients: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the fraction of all examples that each client should get.

        Returns:
            (clients,) float, sum 1.

        Raises:
            ParameterError: there are fewer than `min_examples` for each client.
        """
        check_enough("quantity.min_examples", self.min_examples, clients, examples)
        least = self.min_examples / examples
        if self.law == "lognormal":
            logs = self.sigma * rng.standard_normal(clients)
        elif self.law == "power-law":
            logs = rng.permutation(-self.exponent * np.log(np.arange(1, clients + 1)))
        else:
            logs = log_dirichlet(np.full(clients, self.beta), rng)
        sizes = np.exp(logs - logs.max())
        return least + (1 - clients * least) * sizes / sizes.sum()
