"""Label skew by draws from a Dirichlet distribution."""

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveFloat, PositiveInt
from fedpipe.data.partition.base import ATTEMPTS, Partitioner, check_enough, cut, dirichlet, lengths
from fedpipe.system.errors import ParameterError


class Dirichlet(Partitioner):
    """Divide each class among the clients by shares drawn from a Dirichlet distribution.

    The shares are drawn from Dir(alpha · clients · weights), which for equal weights is Dir(alpha, ..., alpha). As
    alpha → ∞, each client gets the label frequencies of the whole and a size proportional to its weight. For small
    alpha, clients hold few classes, and their sizes differ too.

    References:
        Yurochkin et al. 2019, arXiv:1905.12022, section 4; Li et al. 2022, arXiv:2102.02079 (NIID-Bench),
        "distribution-based label imbalance".
    """

    alpha: PositiveFloat = Field(
        default=0.5,
        description=(
            "The clients' shares of a class are drawn from Dir(alpha). A small alpha gives each client few classes, a "
            "large one approaches iid."
        ),
    )
    min_examples: PositiveInt = Field(
        default=10,
        description=(
            "The shares are drawn anew until each client has at least this many examples. The partition fails if "
            f"{ATTEMPTS} draws do not achieve that."
        ),
    )

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        clients = len(weights)
        check_enough("dirichlet.min_examples", self.min_examples, clients, len(labels))
        by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        counts = np.array([len(examples) for examples in by_class])
        smallest = 0
        for _ in range(ATTEMPTS):
            shares = np.stack([dirichlet(self.alpha * clients * weights, rng) for _ in by_class])  # (classes, clients)
            smallest = int(lengths(shares, counts).sum(axis=0).min())
            if smallest >= self.min_examples:
                pieces = [cut(examples, share) for examples, share in zip(by_class, shares, strict=True)]
                return [np.concatenate(client_pieces) for client_pieces in zip(*pieces, strict=True)]
        raise ParameterError(
            "partition.dirichlet",
            f"in {ATTEMPTS} draws some client always had fewer than min_examples = {self.min_examples} examples "
            f"({smallest} in the last); a larger alpha, a smaller min_examples or fewer partition.clients would do",
        )
