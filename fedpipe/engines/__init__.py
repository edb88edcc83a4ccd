"""Where clients run. Which engine, and how many workers, never changes a result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict

from fedpipe.arithmetic import Arithmetic
from fedpipe.engines.base import Engine, Map, Work
from fedpipe.engines.processes import AVAILABLE, Processes
from fedpipe.engines.ray import RayEngine
from fedpipe.engines.threads import Threads
from fedpipe.errors import UserError
from fedpipe.machine import one_thread_here

__all__ = ["Compute", "Engine", "Map", "Work"]


def _auto_or_count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be auto or a whole number of at least 1")


class Compute(Arithmetic):
    """The machine's part."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["auto", "threads", "processes", "ray"] = "auto"
    workers: Annotated[Any, AfterValidator(_auto_or_count)] = "auto"
    ray_address: str | None = None

    @contextmanager
    def start(self, work: Work) -> Iterator[Map]:
        """The engine's map of this work, while the context lasts.

        With engine: auto, processes where they can share memory (on Linux, training on the CPU), else threads. With
        workers: auto, one for each core this process may use, or each of the cluster's.

        Raises:
            UserError: the engine does not work here.
        """
        device = self.torch_device().type
        engine = self.engine
        if engine == "auto":
            engine = "processes" if AVAILABLE and device == "cpu" else "threads"
        if engine == "processes" and device != "cpu":
            raise UserError(f"params.yaml: compute.engine: processes train on the CPU; with {device} use threads")
        engines: dict[str, Callable[[], Engine]] = {
            "threads": Threads,
            "processes": Processes,
            "ray": lambda: RayEngine(address=self.ray_address),
        }
        workers = None if self.workers == "auto" else self.workers
        with one_thread_here(), engines[engine]().start(work, workers) as map:
            yield map
