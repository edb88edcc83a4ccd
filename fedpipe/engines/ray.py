"""Ray: the cores of a cluster. Tasks of a lost worker or a lost machine run again elsewhere.

On each machine one actor supervises as many forked processes as it has cores for; they share the memory of torch (on
the machine of this process, with it), and what a call shares reaches a machine once. Machines must see the clients'
examples and the test set under the same path, as on a shared file system.
"""

import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, count
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from fedpipe.config import own
from fedpipe.engines.base import Engine, RunTasks
from fedpipe.engines.packing import HANDLER, pack, value_of
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.forked import ForkedWorkers, ForkServer, fork_server
from fedpipe.system.machine import cores

CALLS = 8  # of a machine at a time: its run, those that it takes over, and what others ask of it
LOOK = 0.2  # seconds until a machine that is through asks again whether it can help
START = 60  # seconds in which a machine's actor must be there


class RayEngine(Engine):
    """Run tasks on a Ray cluster."""

    address: str | None = Field(default=None, description="Address of a running cluster; None starts one here.")

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        """Return a context as `Engine.start` does; with an address, None workers means each of the cluster's cores."""
        if not find_spec("ray"):
            raise ParameterError("compute.engine", 'ray is not installed; pip install -e ".[ray]"')
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with ExitStack() as stack:
            if self.address is None:
                # On the loopback interface alone. Ray's own folders would stay for ever.
                folder = stack.enter_context(TemporaryDirectory(prefix="fedpipe-ray-", dir="/tmp"))
                options |= {"num_cpus": workers or cores(), "include_dashboard": False}
                options |= {"_node_ip_address": "127.0.0.1", "_temp_dir": folder}
            # Workers on this machine share this process's memory; once Ray has threads here, it cannot be forked.
            server = None if "ray" in sys.modules else stack.enter_context(fork_server())
            import ray

            try:
                _check_answers(self.address)
                with _signals_as_they_are():
                    ray.init(address=self.address or "local", **options)
            except (OSError, ValueError) as error:
                raise ParameterError("compute.ray_address", f"{self.address}: {error}") from None
            try:
                yield _Machines(workers, server).run_tasks
            finally:
                with _signals_as_they_are():
                    ray.shutdown()


@dataclass
class _Run:
    """A machine's run of some tasks."""

    machine: Any
    left: set[int]  # the numbers of the tasks whose results are not here yet


class _Machines:
    """The cluster's machines, each with an actor that supervises its workers."""

    def __init__(self, workers: int | None, server: ForkServer | None) -> None:
        self._workers, self._server, self._calls = workers, server, count(1)
        self._actors: dict[Any, int] = {}  # actor: how many workers it has

    def run_tasks(self, job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        if not self._actors:
            self._start(job.__module__)
        call = next(self._calls)
        cloudpickle: Any = import_module("ray.cloudpickle")  # knows classes of a script or a notebook too
        for module in own.modules():
            cloudpickle.register_pickle_by_value(module)
        common = ray.put(pack((cloudpickle.dumps(job), shared, cloudpickle.dumps(tasks))))
        runs: dict[Any, _Run] = {}  # by the stream of their results

        def begin(machine: Any, indices: Sequence[int]) -> None:
            stream = machine.run.options(num_returns="streaming").remote(call, common, indices)
            runs[stream] = _Run(machine, set(indices))

        def help_others(machine: Any) -> bool:
            """Have a machine that is through take over half of what another one has left, if there is much."""
            for other in {run.machine for run in runs.values()} - {machine}:
                with suppress(RayActorError):  # it is lost, as will be seen when its results are waited for
                    if given := ray.get(other.give_up.remote(call)):
                        for run in runs.values():
                            run.left.difference_update(given if run.machine == other else ())
                        begin(machine, given)
                        return True
            return False

        for machine, indices in zip(self._actors, shares(len(tasks), [*self._actors.values()]), strict=True):
            if indices:
                begin(machine, indices)
        through: set[Any] = set()  # machines that have nothing to do
        while runs:
            ready, _ = ray.wait([*runs], timeout=LOOK if through else None)
            if not ready:
                through = {machine for machine in through if not help_others(machine)}
                continue
            stream: Any = ready[0]
            try:
                done, result = ray.get(next(stream))
            except StopIteration:
                machine = runs.pop(stream).machine
                if not help_others(machine):
                    through.add(machine)
            except (RayActorError, ObjectLostError):
                run = runs.pop(stream)
                self._actors.pop(run.machine, None)
                through.discard(run.machine)
                begin(self._least_loaded(runs.values()), sorted(run.left))
            except RayTaskError as error:
                raise error.cause from None
            else:
                runs[stream].left.difference_update(done)
                yield value_of(result)

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
                options = {"num_cpus": number, "max_concurrency": CALLS, "scheduling_strategy": place}
                actor = ray.remote(ForkedWorkers).options(**options)
                self._actors[actor.remote(number, HANDLER, self._server, [module])] = number
        begun = {actor.process.remote(): actor for actor in self._actors}
        for late in ray.wait([*begun], num_returns=len(begun), timeout=START)[1] if begun else []:
            ray.kill(begun[late])
            del self._actors[begun[late]]
        if not self._actors:
            raise ParameterError("compute.ray_address", f"no machine of the cluster has free cores within {START} s")

    def _least_loaded(self, runs: Iterable[_Run]) -> Any:
        if not self._actors:
            raise UserError("compute.engine: ray: every machine of the cluster was lost")
        busy = Counter(run.machine for run in runs)
        return min(self._actors, key=lambda actor: busy[actor] / self._actors[actor])


def shares(tasks: int, workers: Sequence[int]) -> list[range]:
    """Divide the numbers of tasks among machines, in proportion to their workers."""
    ends = [tasks * upto // sum(workers) for upto in accumulate(workers)]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Undo what the block does to the handling of SIGTERM: Ray takes it over."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would wait for minutes, then abort."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
