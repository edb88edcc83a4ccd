"""Where clients run. Neither the engine nor the number of workers changes a result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fedpipe.config.section import CheckpointEvery
from fedpipe.engines.base import Engine, RunTasks
from fedpipe.engines.processes import Processes, available
from fedpipe.engines.ray import RayEngine
from fedpipe.engines.threads import Threads
from fedpipe.system.errors import ParameterError
from fedpipe.system.machine import one_thread_here
from fedpipe.training.arithmetic import Arithmetic

__all__ = ["Compute", "Engine", "RunTasks"]

MOST_WORKERS = 1024


def _auto_or_count(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= MOST_WORKERS):
        return value
    raise ValueError(f"must be auto or a whole number from 1 to {MOST_WORKERS}")


class Compute(Arithmetic):
    """Say how an experiment is computed."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["auto", "threads", "processes", "ray"] = Field(
        default="auto",
        description="Where clients run: in threads of one process; in forked processes, which are faster where batches "
        'are small (Linux); on a Ray cluster (pip install -e ".[ray]"). auto takes processes on Linux if the device '
        "is the CPU, else threads. No stage reruns for another engine, other workers or another address.",
    )
    workers: Annotated[
        Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"], BeforeValidator(_auto_or_count)
    ] = Field(
        default="auto",
        description="Clients that train at the same time, with a torch thread each: a number, or auto for one for each "
        "core.",
    )
    ray_address: str | None = Field(
        default=None,
        description="The Ray cluster to join, as HOST:PORT of its head, or auto for the one that this machine "
        "is part of; null starts one on this machine.",
    )

    checkpoint_every: CheckpointEvery = 1.0

    @contextmanager
    def start(self) -> Iterator[RunTasks]:
        """Start the engine's workers, and yield what runs tasks on them while the context lasts.

        With engine auto, workers are processes where they can be forked and share memory (on Linux, training on the
        CPU, in a process that has not used Ray), else threads. With workers auto, there is one for each core that this
        process may use, or for each of the cluster's.

        Raises:
            ParameterError: the engine does not work here.
        """
        device = self.torch_device().type
        engine = self.engine
        if engine == "auto":
            engine = "processes" if available() and device == "cpu" else "threads"
        if engine == "processes" and device != "cpu":
            raise ParameterError("compute.engine", f"processes train on the CPU; with {device} use threads")
        engines: dict[str, Callable[[], Engine]] = {
            "threads": Threads,
            "processes": Processes,
            "ray": lambda: RayEngine(address=self.ray_address),
        }
        workers = None if self.workers == "auto" else self.workers
        with one_thread_here(), engines[engine]().start(workers) as run_tasks:
            yield run_tasks
