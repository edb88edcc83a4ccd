"""Where clients run. Which engine, and how many workers, never changes a result.

To add one: a file with an `Engine`, and its name in ENGINES.
"""

from contextlib import AbstractContextManager
from typing import Annotated, Any

import joblib
from pydantic import AfterValidator

from fedpipe.engines.base import Engine, Map
from fedpipe.engines.threads import Threads
from fedpipe.params import Section, choice

__all__ = ["ENGINES", "Compute", "Engine", "Map"]

ENGINES: dict[str, type[Engine]] = {
    "threads": Threads,
}


def _auto_or_count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be auto or a whole number of at least 1")


@choice("engine", ENGINES)
class Compute(Section):
    """The machine's part: speed, never results."""

    engine: str = "threads"
    workers: Annotated[Any, AfterValidator(_auto_or_count)] = "auto"

    def start(self) -> AbstractContextManager[Map]:
        """The engine's map, while the context lasts. With workers: auto, one for each core this process may use."""
        engine: Engine = self.chosen("engine")
        return engine.start(joblib.cpu_count() if self.workers == "auto" else self.workers)
