"""Who takes part in a round: the cohort, and which of its clients fail or do less."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedpipe.config.section import PositiveInt, Section
from fedpipe.system.randomness import generator
from fedpipe.system.records import Record

Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Member(Record):
    """A client of a cohort."""

    client: int
    weight: float  # of its update in the mean, relative to those of the cohort's other clients
    epochs: int  # local epochs
    fails: bool = False  # it is sent the model and returns no update


@dataclass(frozen=True)
class Cohort(Record):
    """All that chance decides about a round before anybody trains, by ascending client."""

    invited: tuple[Member, ...]  # clients that are sent the model

    @property
    def drawn(self) -> tuple[int, ...]:
        """The clients that are sent the model."""
        return tuple(member.client for member in self.invited)

    @property
    def members(self) -> tuple[Member, ...]:
        """The clients that are to return an update."""
        return tuple(member for member in self.invited if not member.fails)

    @property
    def dropped(self) -> tuple[int, ...]:
        """The clients that fail."""
        return tuple(member.client for member in self.invited if member.fails)


class Sampling(Section):
    """Draw the cohort of a round."""

    clients_per_round: PositiveInt = Field(
        default=4, description="Size of the cohort: the clients that are drawn anew for each round."
    )
    sampling: Literal["uniform", "size", "poisson", "shuffled"] = Field(
        default="uniform",
        description="uniform draws different clients, each equally likely. size draws with replacement, large clients "
        "more often. poisson draws each client independently, so that the cohort has this size on average. shuffled "
        "draws each client once, but for those who are too few for a cohort, before it draws any again.",
    )
    objective: Literal["examples", "clients"] = Field(
        default="examples",
        description="What training minimises. examples: the mean loss over all examples, Σ_k (n_k / n) F_k, so that a "
        "client counts by how many it has. clients: the mean of the clients' losses, 1 / N Σ_k F_k, so that each "
        "counts the same. It decides the weights wherever a strategy averages or adds up clients; papers differ in it.",
    )
    dropout: Probability = Field(
        default=0.0,
        description="Probability that a client of the cohort drops out: it is sent the model and returns no update.",
    )
    stragglers: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Probability that a client of the cohort trains only 1 to epochs - 1 local epochs."
    )
    min_updates: PositiveInt = Field(
        default=1, description="With fewer updates a round is skipped: the model stays as it is."
    )

    def draw(self, sizes: np.ndarray | Sequence[int], epochs: int, seed: int, round: int) -> Cohort:
        """Draw the cohort of a round.

        An update weighs p_k, the client's weight in the objective, divided by how likely a draw is to give this client,
        times how often it was drawn. So the weighted mean over the cohort estimates Σ_k p_k Δ_k over all clients:

        - uniform: clients_per_round different clients, each equally likely (McMahan et al. 2017, arXiv:1602.05629).
          Weights are n_k for the objective `examples`, 1 for `clients`.
        - size: clients_per_round draws with replacement, client k with probability n_k / n; it trains once. Weights are
          how often it was drawn (Li et al. 2020, arXiv:1907.02189, scheme I), for `clients` divided by n_k.
        - poisson: each client independently, with probability clients_per_round / clients; weights as for uniform. The
          cohort's size varies, and may be 0.
        - shuffled: an epoch of the population is clients // clients_per_round rounds. In each epoch all clients are
          shuffled, and a round takes the next clients_per_round of them; weights as for uniform. Those that are left
          over, too few for a cohort, wait for the next epoch.

        A client of the cohort fails with probability `dropout`; with probability `stragglers` it trains only 1 to
        epochs - 1 epochs, each number equally likely (compare Li et al. 2020, arXiv:1812.06127, section 5.2).

        Args:
            sizes: (clients,) the numbers of training examples, n_k.
            epochs: local epochs of a client that is no straggler; at least 2 where there may be stragglers.
            seed: the experiment's.
            round: 1, 2, ...
        """
        drawn = self._drawn(np.asarray(sizes), seed, round)
        return Cohort(tuple(self._members(drawn, epochs, seed, round)))

    def client_weights(self, sizes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the weight of each client's loss in the objective, p_k: (clients,) float64, sum 1.

        Args:
            sizes: (clients,) the numbers of training examples, n_k.
        """
        relative = self._relative_weights(np.asarray(sizes))
        return relative / relative.sum()

    def _members(self, weights: dict[int, float], epochs: int, seed: int, round: int) -> Iterator[Member]:
        def chance(purpose: str, client: int) -> np.random.Generator:
            return generator(seed, purpose, round=round, client=client)

        for client, weight in weights.items():
            fails = self.dropout > 0 and chance("dropout", client).random() < self.dropout
            done = epochs
            if self.stragglers:
                straggler = chance("straggler", client)
                if straggler.random() < self.stragglers:
                    done = int(straggler.integers(1, epochs))
            yield Member(client, weight, done, fails)

    def _relative_weights(self, sizes: np.ndarray) -> np.ndarray:
        """Return numbers in the proportions of p_k: whole ones, whose sums are exact."""
        return sizes.astype(float) if self.objective == "examples" else np.ones(len(sizes))

    def _drawn(self, sizes: np.ndarray, seed: int, round: int) -> dict[int, float]:
        """Draw the clients, ascending, and give the weights of their updates."""
        weights, rng = self._relative_weights(sizes), generator(seed, "cohort", round=round)
        if self.sampling == "size":
            times = rng.multinomial(self.clients_per_round, sizes / sizes.sum())
            return {
                int(client): float(times[client] * weights[client] / sizes[client]) for client in np.flatnonzero(times)
            }
        if self.sampling == "poisson":
            drawn = np.flatnonzero(rng.random(len(sizes)) < self.clients_per_round / len(sizes))
        elif self.sampling == "shuffled":
            epoch, block = divmod(round - 1, len(sizes) // self.clients_per_round)
            order = generator(seed, "order of clients", round=epoch).permutation(len(sizes))
            drawn = np.sort(order[block * self.clients_per_round :][: self.clients_per_round])
        else:
            drawn = np.sort(rng.choice(len(sizes), self.clients_per_round, replace=False))
        return {int(client): float(weights[client]) for client in drawn}
