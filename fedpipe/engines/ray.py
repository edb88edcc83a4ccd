"""Ray: the cores of a cluster. Tasks of a lost worker or a lost machine run again elsewhere.

On each machine one actor supervises as many forked processes as it has cores for; they share the memory of torch, and
what a call shares reaches a machine once. Machines must see the clients' examples and the test set under the same path,
as on a shared file system.
"""

import pickle
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from itertools import count
from typing import Any

from pydantic import Field

from fedpipe.engines.base import Engine, RunTasks, as_they_come, chunks
from fedpipe.engines.packing import dumps, outcome_of, value_of
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.forked import ForkedWorkers
from fedpipe.system.machine import cores, train_on_threads

START = 60  # seconds in which a machine's actor must be there


class RayEngine(Engine):
    """Run tasks on a Ray cluster."""

    address: str | None = Field(default=None, description="Address of a running cluster; None starts one here.")

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        """Return a context as `Engine.start` does; with an address, None workers means each of the cluster's cores."""
        try:
            import ray
        except ImportError:
            raise ParameterError("compute.engine", 'ray is not installed; pip install -e ".[ray]"') from None

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            # On the loopback interface alone.
            options |= {"num_cpus": workers or cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            _check_answers(self.address)
            ray.init(address=self.address or "local", **options)
        except (OSError, ValueError) as error:
            raise ParameterError("compute.ray_address", f"{self.address}: {error}") from None
        try:
            machines = _Machines(workers)
            yield machines.run_tasks
        finally:
            ray.shutdown()


class _Machines:
    """The cluster's machines, each with an actor that supervises its workers."""

    def __init__(self, workers: int | None) -> None:
        self._workers, self._calls = workers, count(1)
        self._actors: dict[Any, int] = {}  # actor: how many workers it has
        self._running: dict[Any, tuple[Any, Any]] = {}  # reference to a result: the actor that makes it, its chunk

    def run_tasks(self, job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        if not self._actors:
            self._start(job.__module__)
        call = next(self._calls)
        cloudpickle: Any = import_module("ray.cloudpickle")  # knows classes of a script or a notebook too
        common = ray.put(dumps((cloudpickle.dumps(job), shared)))

        def submit(chunk: Any) -> Any:
            actor = self._least_loaded()
            reference = actor.call.remote(call, common, pickle.dumps(chunk))
            self._running[reference] = actor, chunk
            return reference

        def result(reference: Any) -> Any:
            actor, chunk = self._running.pop(reference)
            try:
                return value_of(pickle.loads(ray.get(reference)))
            except (RayActorError, ObjectLostError):
                self._actors.pop(actor, None)
                return result(submit(chunk))

        workers = sum(self._actors.values())
        return as_they_come(submit, ray.wait, result, chunks(tasks, workers), ahead=2 * workers)

    def _start(self, module: str) -> None:
        """Start an actor on each machine whose cores are free; its workers share what this module imports."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        left = self._workers
        for node in ray.nodes():
            number = int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0
            number = number if left is None else min(number, left)
            if number:
                left = None if left is None else left - number
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = {"num_cpus": number, "max_concurrency": number + 1, "scheduling_strategy": place}
                actor = ray.remote(ForkedWorkers).options(**options)
                self._actors[actor.remote(number, f"{__name__}:run_in_worker", [module])] = number
        begun = {actor.process.remote(): actor for actor in self._actors}
        for late in ray.wait([*begun], num_returns=len(begun), timeout=START)[1] if begun else []:
            ray.kill(begun[late])
            del self._actors[begun[late]]
        if not self._actors:
            raise ParameterError("compute.ray_address", f"no machine of the cluster has free cores within {START} s")

    def _least_loaded(self) -> Any:
        if not self._actors:
            raise UserError("compute.engine: ray: every machine of the cluster was lost")
        busy = Counter(actor for actor, _ in self._running.values())
        return min(self._actors, key=lambda actor: busy[actor] / self._actors[actor])


def run_in_worker(common: bytes, chunk: bytes) -> bytes:
    """Run a chunk in a worker's process: the function that `ForkedWorkers` calls."""
    job, shared = _unpacked(common)
    return outcome_of(job, shared, pickle.loads(chunk), dumps)


@lru_cache(maxsize=1)
def _unpacked(common: bytes) -> tuple[Any, Any]:
    train_on_threads(1)
    job, shared = pickle.loads(common)
    return pickle.loads(job), shared


def _check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would wait for minutes, then abort."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
