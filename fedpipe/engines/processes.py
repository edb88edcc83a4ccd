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

AVAILABLE = sys.platform == "linux"  # where a process with torch in it can be forked, and memory shared like this


class Processes(Engine):
    """Run tasks in forked processes."""

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        if not AVAILABLE:
            raise ParameterError("compute.engine", "processes works on Linux alone; use auto or threads")
        if "ray" in sys.modules:  # seen: one fork in sixty crashed
            raise ParameterError("compute.engine", "processes: not in a process that has used Ray, whose threads stay")
        with fork_server() as server:
            pool, numbers = ForkedWorkers(workers or cores(), HANDLER, server), count(1)

            def run_tasks(job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
                common = pack((pickle.dumps(job), shared, pickle.dumps(tasks)))
                for _, result in pool.run(next(numbers), common, range(len(tasks))):
                    yield value_of(result)

            yield run_tasks
