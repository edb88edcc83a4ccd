"""Who takes part in a round: the cohort, and who of it fails or does less."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from fedpipe.params import Section
from fedpipe.randomness import generator

Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Member:
    """A client of a cohort that returns its update."""

    client: int
    weight: float  # of its update in the mean, relative to the others'
    epochs: int  # local ones


@dataclass(frozen=True)
class Cohort:
    """All that chance decides about a round before anybody trains. Ascending, the order of all sums."""

    drawn: tuple[int, ...]  # who was sent the model
    members: tuple[Member, ...]  # who of them returns an update

    @property
    def dropped(self) -> tuple[int, ...]:
        members = {member.client for member in self.members}
        return tuple(client for client in self.drawn if client not in members)


class Participation(Section):
    """Who takes part."""

    clients_per_round: PositiveInt = 4
    sampling: Literal["uniform", "size", "poisson"] = "uniform"
    dropout: Probability = 0.0
    stragglers: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_updates: PositiveInt = 1

    def draw(self, sizes: Sequence[int], epochs: int, seed: int, round: int) -> Cohort:
        """The cohort of a round.

        Sampling, and the weight of an update, so that the mean estimates Σ_k (n_k / n) Δ_k over the whole population:

        - uniform: clients_per_round different clients, each as likely; weight n_k (McMahan et al. 2017).
        - size: clients_per_round draws with replacement, client k with probability n_k / n; weight: how often it was
          drawn (Li et al. 2020, arXiv:1907.02189, scheme I). It trains once.
        - poisson: each client by itself, with probability clients_per_round / clients; weight n_k. The cohort's
          size varies, and may be 0.

        A client of the cohort fails with probability `dropout`; with probability `stragglers` it trains only 1 to
        epochs - 1 epochs, each as likely (compare Li et al. 2020, arXiv:1812.06127, section 5.2).

        Args:
            sizes: each client's number of training examples, n_k.
            epochs: local epochs of who is no straggler; at least 2 where there may be some.
        """
        rng = generator(seed, "cohort", round=round)
        weights = self._weights(np.asarray(sizes), rng)

        def chance(purpose: str, client: int) -> np.random.Generator:
            return generator(seed, purpose, round=round, client=client)

        members = []
        for client, weight in weights.items():
            if self.dropout and chance("dropout", client).random() < self.dropout:
                continue
            done = epochs
            if self.stragglers:
                straggler = chance("straggler", client)
                if straggler.random() < self.stragglers:
                    done = int(straggler.integers(1, epochs))
            members.append(Member(client, weight, done))
        return Cohort(tuple(weights), tuple(members))

    def _weights(self, sizes: np.ndarray, rng: np.random.Generator) -> dict[int, float]:
        """The drawn clients, ascending, and their weights."""
        if self.sampling == "size":
            times = rng.multinomial(self.clients_per_round, sizes / sizes.sum())
            return {int(client): float(times[client]) for client in np.flatnonzero(times)}
        if self.sampling == "poisson":
            drawn = np.flatnonzero(rng.random(len(sizes)) < self.clients_per_round / len(sizes))
        else:
            drawn = np.sort(rng.choice(len(sizes), self.clients_per_round, replace=False))
        return {int(client): float(sizes[client]) for client in drawn}
