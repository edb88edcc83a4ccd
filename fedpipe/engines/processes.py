"""Processes forked from this one: no interpreter lock to meet, nothing to import again."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from fedpipe.engines.base import Engine, RunTasks
from fedpipe.engines.packing import HANDLER, pack, value_of
from fedpipe.system.errors import ParameterError
from fedpipe.system.forked import ForkedWorkers, fork_server
from fedpipe.system.machine import cores


def available() -> bool:
    """Tell whether this process can be forked with torch in it, and memory shared like this.

    Not where Ray was used: its threads stay, and one fork in sixty crashed.
    """
    return sys.platform == "linux" and "ray" not in sys.modules


class Processes(Engine):
    """Run tasks in forked processes."""

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        if not available():
            used_ray = "not in a process that has used Ray, whose threads stay"
            where = used_ray if "ray" in sys.modules else "on Linux alone"
            raise ParameterError("compute.engine", f"processes: {where}; use auto or threads")
        with fork_server() as server:
            pool, numbers = ForkedWorkers(workers or cores(), HANDLER, server), count(1)

            def run_tasks(job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
                common = pack((pickle.dumps(job), shared, pickle.dumps(tasks)))
                for _, result in pool.run(next(numbers), common, range(len(tasks))):
                    yield value_of(result)

            yield run_tasks
