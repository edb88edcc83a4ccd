"""What every privacy mechanism is, and what it promises."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from fedpipe.config.section import Section
from fedpipe.federated.aggregation.base import Aggregator


@dataclass(frozen=True)
class Guarantee(ABC):
    """What clients are promised: (ε, δ)-differential privacy of everything that all rounds release."""

    rounds: int  # planned
    noise_multiplier: float  # of a round as one release
    delta: float
    clip: float  # the largest norm of a client's update, in the first round
    noise_on_updates: float  # the standard deviation of what is added to a sum of updates, over the clip

    @abstractmethod
    def epsilon_rdp(self, rounds: int) -> float:
        """Return what so many rounds cost by Rényi divergences."""

    @abstractmethod
    def epsilon_pld(self, rounds: int) -> float | None:
        """Return what so many rounds cost by privacy loss distributions; None if the mechanism has none."""

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """What all planned rounds cost, by the accountant that has the smaller bound."""

    def figures(self) -> dict[str, float | None]:
        """Return the promise as figures, of all planned rounds, even if training ends earlier."""
        return {
            "epsilon": self.epsilon,
            "epsilon_rdp": self.epsilon_rdp(self.rounds),
            "epsilon_pld": self.epsilon_pld(self.rounds),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
        }


class Mechanism(Section):
    """Bound nothing. Mechanisms differ from that; their fields are their parameters."""

    is_private: ClassVar[bool] = False  # whether clients are promised privacy, so that none may be told from others
    sampling: ClassVar[str] = ""  # the `federated.sampling` that its accountant knows
    draws: ClassVar[str] = ""  # what that takes care of

    @property
    def is_secret(self) -> bool:
        """Whether noise, and who takes part, come from randomness that nobody can repeat."""
        return False

    def check(self, clients: int, clients_per_round: int, rounds: int) -> None:
        """Check that the promise can be kept.

        Args:
            clients: how many there are.
            clients_per_round: the size of a round's cohort, on average.
            rounds: planned.

        Raises:
            ParameterError: it cannot.
        """

    def guarantee(self, clients: int, clients_per_round: int, rounds: int) -> Guarantee | None:
        """Return the promise, of the arguments of `check`; None if there is none."""
        return None

    def aggregator(self, chosen: Aggregator[Any], clients_per_round: int, rounds: int) -> Aggregator[Any]:
        """Return the aggregator that keeps the promise, in place of the one that `federated.aggregation` names."""
        return chosen
