"""Label skew by Dirichlet draws."""

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from fedpipe.errors import UserError
from fedpipe.partition.base import Partitioner, check_enough, cut, lengths

ATTEMPTS = 100


class Dirichlet(Partitioner):
    """Label skew: of each class, the clients' shares are drawn from Dir(alpha · clients · weights).

    With equal weights, Dir(alpha, ..., alpha). Small alpha: few classes a client, and unequal sizes; alpha → ∞: each
    client has the label frequencies of the whole, and the size of its weight. Drawn again, up to ATTEMPTS times, until
    every client has min_examples.

    Yurochkin et al. 2019, arXiv:1905.12022, section 4; as label skew Hsu et al. 2019, arXiv:1909.06335.
    """

    alpha: PositiveFloat = 0.5
    min_examples: PositiveInt = 10

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients = len(weights)
        check_enough("dirichlet.min_examples", self.min_examples, clients, len(labels))
        by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        counts = np.array([len(examples) for examples in by_class])
        smallest = 0
        for _ in range(ATTEMPTS):
            shares = np.stack([_dirichlet(self.alpha * clients * weights, rng) for _ in by_class])
            smallest = int(lengths(shares, counts).sum(axis=0).min())
            if smallest >= self.min_examples:
                pieces = [cut(examples, share) for examples, share in zip(by_class, shares, strict=True)]
                return [np.concatenate(own) for own in zip(*pieces, strict=True)]
        raise UserError(
            f"params.yaml: partition.dirichlet: in {ATTEMPTS} draws some client always had fewer than min_examples = "
            f"{self.min_examples} examples ({smallest} in the last); a larger alpha, a smaller min_examples or fewer "
            "partition.clients would do"
        )


def _dirichlet(concentration: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw from Dir(concentration): gammas by their sum, in logarithms, in which the smallest do not vanish.

    log Gamma(a) is drawn as log Gamma(a + 1) + log(U) / a. Marsaglia & Tsang 2000, section 6.
    """
    logs = np.log(rng.standard_gamma(concentration + 1)) + np.log1p(-rng.random(len(concentration))) / concentration
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()
