"""How often something is done that costs time and need not be done each time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 0.02  # of all time, at most


class Pace:
    """Tell when something is due again: after some seconds, and later where it would take over 2 % of the time.

    Args:
        seconds: from one time to the next, at least; 0 means always due, whatever it costs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, time.monotonic() + seconds

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Tell the block whether it is due, and measure how long it takes if so."""
        begun = time.monotonic()
        due = begun >= self._next
        yield due
        if due and self._seconds:
            end = time.monotonic()
            self._next = end + max(self._seconds, (end - begun) * (1 / SHARE - 1))
