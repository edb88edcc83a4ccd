"""Laws of every engine: the same results, whatever runs the tasks, and a lost worker is reported."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.engines import Compute
from fedpipe.engines.base import RunTasks
from fedpipe.engines.packing import pack, unpack
from fedpipe.engines.ray import shares
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.forked import Packed

ENGINES = ["threads", "processes", "ray"]
every = pytest.mark.parametrize("engine", ENGINES)


def compute(engine: Any, workers: int = 2, **settings: Any) -> Compute:
    return Compute(engine=engine, workers=workers, device="cpu", **settings)


# Jobs


def times(shared: torch.Tensor, tasks: Iterable[int]) -> dict[int, torch.Tensor]:
    results = {}
    for task in tasks:
        time.sleep(0.01 * (task % 3 == 0))  # so that tasks do not end in their order
        results[task] = shared * task
    return results


def fails_at_three(shared: None, tasks: Iterable[int]) -> Sequence[int]:
    done = []
    for task in tasks:
        if task == 3:
            raise ParameterError("three", "is too many")
        done.append(task)
    return done


def threads_of_torch(shared: None, tasks: Iterable[int]) -> int:
    return sum(torch.get_num_threads() for _ in tasks)


def process(shared: None, tasks: Iterable[int]) -> int:
    for _ in tasks:
        time.sleep(0.01)
    return os.getpid()


def sleeps(shared: None, tasks: Iterable[int]) -> Sequence[int]:
    done = []
    for task in tasks:
        time.sleep(0.2 * task)
        done.append(task)
    return done


def takes_one(shared: None, tasks: Iterable[int]) -> int:
    return next(iter(tasks))


@dataclass(frozen=True)
class Marks:
    """A job that leaves a file for each task it has begun."""

    folder: Path
    seconds: float = 0.0  # that each takes

    def __call__(self, shared: None, tasks: Iterable[int]) -> list[int]:
        done = []
        for task in tasks:
            (self.folder / str(task)).touch()
            time.sleep(self.seconds)
            done.append(task)
        return done

    def begun(self) -> int:
        return len(list(self.folder.iterdir()))


def merged(results: Any) -> dict[int, list[float]]:
    return {task: result.tolist() for part in results for task, result in part.items()}


@given(st.integers(0, 1000), st.lists(st.integers(1, 64), min_size=1, max_size=8))
def test_machines_share_all_tasks_in_proportion_to_their_workers(tasks: int, workers: list[int]):
    divided = shares(tasks, workers)
    assert [task for share in divided for task in share] == list(range(tasks))
    for share, number in zip(divided, workers, strict=True):
        assert abs(len(share) - tasks * number / sum(workers)) < 1


@pytest.fixture(scope="class", params=ENGINES)
def run_tasks(request: pytest.FixtureRequest) -> Iterator[RunTasks]:
    with compute(request.param).start() as run_tasks:
        list(run_tasks(process, None, range(4)))  # workers have started
        yield run_tasks


class TestStarted:
    """What holds of an engine that has started, again and again, whatever became of its calls before."""

    def test_every_task_is_run_once_and_a_call_shares_its_own_value(self, run_tasks: RunTasks):
        shared = torch.arange(3.0)
        assert merged(run_tasks(times, shared, range(30))) == {task: (shared * task).tolist() for task in range(30)}
        again = merged(run_tasks(times, shared + 1, range(3)))
        assert again == {task: ((shared + 1) * task).tolist() for task in range(3)}

    def test_results_come_as_their_tasks_end(self, run_tasks: RunTasks):
        """The first one sleeps longest."""
        order = [part[0] for part in run_tasks(sleeps, None, [4, 0, 0, 1])]
        assert order[-1] == 4

    def test_an_exception_is_raised_in_place_of_its_result(self, run_tasks: RunTasks):
        with pytest.raises(ParameterError) as error:
            list(run_tasks(fails_at_three, None, range(6)))
        assert str(error.value) == "three: is too many"
        assert sorted(task for part in run_tasks(fails_at_three, None, range(3)) for task in part) == [0, 1, 2]

    def test_a_worker_has_one_torch_thread(self, run_tasks: RunTasks):
        assert sum(run_tasks(threads_of_torch, None, range(4))) == 4

    def test_results_are_few(self, run_tasks: RunTasks, tmp_path: Path):
        """A worker makes one result of all that it does in a second."""
        start = time.monotonic()
        results = list(run_tasks(Marks(tmp_path), None, range(2000)))
        assert len(results) <= 2 * (1 + time.monotonic() - start)
        assert sorted(task for done in results for task in done) == list(range(2000))

    def test_results_tell_of_progress(self, run_tasks: RunTasks, tmp_path: Path):
        job = Marks(tmp_path, seconds=0.3)
        results = run_tasks(job, None, range(14))
        done = next(results)
        assert job.begun() < 14
        done = sorted(done + [task for more in results for task in more])
        assert done == list(range(14))

    def test_whoever_stops_iterating_ends_the_call(self, run_tasks: RunTasks, tmp_path: Path):
        job = Marks(tmp_path, seconds=0.3)
        for _ in run_tasks(job, None, range(40)):
            break
        assert merged(run_tasks(times, torch.ones(1), [1, 2])) == {1: [1.0], 2: [2.0]}
        begun = job.begun()
        assert begun < 20
        time.sleep(1)
        assert job.begun() <= begun + 2

    def test_what_a_job_does_not_take_another_call_is_handed(self, run_tasks: RunTasks):
        assert sorted(run_tasks(takes_one, None, range(1100))) == list(range(1100))


@every
def test_no_task_is_no_result(engine: str):
    with compute(engine).start() as run_tasks:
        assert list(run_tasks(times, torch.zeros(1), [])) == []


@every
def test_results_belong_to_their_receiver(engine: str):
    """They neither change when more come, nor does changing them change anything."""
    shared = torch.ones(1000)
    with compute(engine, workers=1).start() as run_tasks:
        results = {}
        for part in run_tasks(times, shared, range(6)):
            for task, result in part.items():
                result += 0.5
                results[task] = result
        assert {task: result.unique().tolist() for task, result in results.items()} == {k: [k + 0.5] for k in range(6)}
    assert shared.unique().tolist() == [1]


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_workers_are_other_processes(engine: str):
    with compute(engine).start() as run_tasks:
        assert os.getpid() not in set(run_tasks(process, None, range(8)))


@every
def test_the_engine_leaves_torchs_threads_as_they_were(engine: str):
    torch.set_num_threads(2)
    with compute(engine).start() as run_tasks:
        list(run_tasks(times, torch.ones(1), range(2)))
    assert torch.get_num_threads() == 2


def test_auto_takes_the_cores_that_the_process_may_use():
    """As `taskset` leaves them."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from fedpipe.system.machine import cores; print(cores())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "1\n"


def test_processes_end_with_their_engine():
    with compute("processes").start() as run_tasks:
        workers = set(run_tasks(process, None, range(20)))
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def products(shared: torch.Tensor, tasks: Iterable[int]) -> int:
    return sum(int((shared @ shared.T).shape[0] > task) for task in tasks)


def test_a_process_that_is_forked_when_threads_have_just_ended_can_compute():
    """Where threads are only joined, a matrix product in the child waits for ever, one time in four."""
    torch.set_num_threads(2)
    matrix = torch.ones(512, 512)
    products(matrix, [0])
    for _ in range(40):
        with compute("threads").start() as run_tasks:
            list(run_tasks(products, matrix, range(8)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork and threads, from Python 3.12 on
            child = os.fork()
        if not child:
            torch.set_num_threads(1)  # as workers do: of several, a forked process has only one
            products(matrix, [0])
            os._exit(0)
        end = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.001)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended == (child, 0)


def dies_at_three(shared: None, tasks: Iterable[int]) -> None:
    for task in tasks:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_task_whose_processes_are_lost_again_and_again_is_an_error_that_says_so(engine: str):
    with (
        compute(engine).start() as run_tasks,
        pytest.raises(
            UserError, match=r"^worker processes ended 5 times; if they ran out of memory, fewer compute\.wor"
        ),
    ):
        list(run_tasks(dies_at_three, None, range(8)))


@dataclass(frozen=True)
class DiesOnce:
    """A job that kills its worker at task 3, the first time."""

    marker: Path

    def __call__(self, shared: None, tasks: Iterable[int]) -> Sequence[int]:
        done = []
        for task in tasks:
            if task == 3 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(task)
        return done


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_tasks_of_a_lost_process_run_again(engine: str, tmp_path: Path):
    with compute(engine).start() as run_tasks:
        results = list(run_tasks(DiesOnce(tmp_path / "died"), None, range(1100)))
        assert sorted(task for part in results for task in part) == list(range(1100))
        assert (tmp_path / "died").exists()
        assert merged(run_tasks(times, torch.ones(1), [1, 2])) == {1: [1.0], 2: [2.0]}


def on_a_node(shared: torch.Tensor, tasks: Iterable[int]) -> tuple[int, dict[int, torch.Tensor]]:
    """Tells a machine by the process that its workers are forked from."""
    results = {}
    for task in tasks:
        time.sleep(0.1)
        results[task] = shared * task
    return os.getppid(), results


def test_ray_joins_a_cluster_and_survives_the_loss_of_a_node_in_the_middle_of_a_call():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        shared = torch.ones(200_000)  # large enough that results stay on the node that made them
        with Compute(engine="ray", ray_address=cluster.address, device="cpu").start() as run_tasks:
            nodes = {node for node, _ in run_tasks(on_a_node, shared, range(8))}
            assert len(nodes) == 2
            results = run_tasks(on_a_node, shared, range(20))
            found = [next(results)]
            threading.Timer(0.1, cluster.remove_node, [second], {"allow_graceful": False}).start()
            found += results
            values = {task: result[0].item() for _, part in found for task, result in part.items()}
            assert values == {task: float(task) for task in range(20)}
            [left] = {node for node, _ in run_tasks(on_a_node, shared, range(3))}
            assert left in nodes
    finally:
        cluster.shutdown()


def test_a_machine_of_a_ray_cluster_that_is_through_takes_over_what_another_has_left(tmp_path: Path):
    """The tasks of the first half, one machine's share, take long; those of the second half no time."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        with Compute(engine="ray", ray_address=cluster.address, device="cpu").start() as run_tasks:
            list(run_tasks(process, None, range(2)))  # workers have started
            results = list(run_tasks(slow_first_half, 20, range(20)))
        assert sorted(task for _, done in results for task in done) == list(range(20))
        assert len({worker for worker, done in results if min(done) < 10}) == 2
    finally:
        cluster.shutdown()


def slow_first_half(number: int, tasks: Iterable[int]) -> tuple[int, list[int]]:
    done = []
    for task in tasks:
        time.sleep(0.3 * (2 * task < number))
        done.append(task)
    return os.getpid(), done


def test_a_ray_address_where_no_cluster_is_is_an_error_that_names_it():
    with (
        pytest.raises(ParameterError, match=r"^compute\.ray_address: 127\.0\.0\.1:1: "),
        compute("ray", ray_address="127.0.0.1:1").start(),
    ):
        pass


def test_in_a_process_that_has_used_ray_auto_takes_threads():
    """Forks crash there, now and then."""
    with compute("ray").start() as run_tasks:
        list(run_tasks(takes_one, None, range(2)))
    with compute("auto").start() as run_tasks:
        assert set(run_tasks(process, None, range(8))) == {os.getpid()}
    with (
        pytest.raises(
            ParameterError, match=r"^compute\.engine: processes: not in a process that has used Ray, .*; use auto"
        ),
        compute("processes").start(),
    ):
        pass


def test_a_value_unpacked_from_memory_that_cannot_be_written_to_has_tensors_of_its_own():
    value = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor(3), "text"], "c": torch.zeros(0)}
    packed = pack(value)
    assert sum(buffer.nbytes for buffer in packed.buffers) == 6 * 4 + 8
    found = unpack(Packed(packed.frame, [buffer.toreadonly() for buffer in packed.buffers]))
    assert torch.equal(found["a"], value["a"])
    assert found["b"] == value["b"]
    assert found["c"].shape == (0,)
    found["a"] += 1
    assert value["a"].sum() == 15
