"""Promises whose price an accountant computes; it takes a second to import, and is where something is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedpipe.federated.mechanisms.base import Guarantee

SMALLEST_MULTIPLIER = 0.05  # of noise, with which a single round costs hundreds
LARGEST_MULTIPLIER = 1000.0  # of which the noise, in units of the grid, is within what can be drawn

Event = Callable[[Any, float, int], Any]
"""Returns what rounds release, of how clients are drawn, a noise multiplier and how many rounds there are."""


@dataclass(frozen=True)
class Accounted(Guarantee):
    """A promise about events of dp-accounting."""

    event_of: Callable[[int], Any]  # what a number of rounds releases

    def epsilon_rdp(self, rounds: int) -> float:
        from fedpipe.privacy import accountant

        return accountant.epsilon_rdp(self.event_of(rounds), self.delta)

    def epsilon_pld(self, rounds: int) -> float | None:
        from fedpipe.privacy import accountant

        return accountant.epsilon_pld(self.event_of(rounds), self.delta)

    @property
    def epsilon(self) -> float:
        from fedpipe.privacy import accountant

        return accountant.epsilon(self.event_of(self.rounds), self.delta)


@lru_cache
def noise_for(event: Event, draws: float, rounds: int, epsilon: float, delta: float) -> float:
    """Return the noise multiplier with which rounds cost no more than an epsilon at a delta; infinite if none does.

    Args:
        event: what the rounds release.
        draws: how clients are drawn, as the event takes it.
        rounds: how many.
        epsilon: the largest.
        delta: likewise.
    """
    from fedpipe.privacy import accountant

    try:
        return accountant.calibrated(lambda z: event(draws, z, rounds), epsilon, delta, SMALLEST_MULTIPLIER)
    except ValueError:
        return float("inf")
