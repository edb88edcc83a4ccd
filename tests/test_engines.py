"""Laws of every engine: the same results, whatever runs the tasks, and a lost worker is reported."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.engines import Compute
from fedpipe.engines.base import chunks
from fedpipe.engines.packing import pack, unpack
from fedpipe.system.errors import ParameterError, UserError

ENGINES = ["threads", "processes", "ray"]
every = pytest.mark.parametrize("engine", ENGINES)


def compute(engine: Any, workers: int = 2, **settings: Any) -> Compute:
    return Compute(engine=engine, workers=workers, device="cpu", **settings)


# Jobs


def times(shared: torch.Tensor, tasks: Sequence[int]) -> dict[int, torch.Tensor]:
    time.sleep(0.02 * (tasks[0] % 3 == 0))  # so that chunks do not end in their order
    return {task: shared * task for task in tasks}


def fails_at_three(shared: None, tasks: Sequence[int]) -> Sequence[int]:
    if 3 in tasks:
        raise ParameterError("three", "is too many")
    return tasks


def threads_of_torch(shared: None, tasks: Sequence[int]) -> int:
    return torch.get_num_threads()


def process(shared: None, tasks: Sequence[int]) -> int:
    time.sleep(0.01)
    return os.getpid()


def merged(results: Any) -> dict[int, list[float]]:
    return {task: result.tolist() for part in results for task, result in part.items()}


@given(st.integers(0, 1000), st.integers(1, 64))
def test_chunks_are_the_tasks_ever_smaller_and_enough_for_all_workers(tasks: int, workers: int):
    divided = [list(chunk) for chunk in chunks(range(tasks), workers)]
    assert [task for chunk in divided for task in chunk] == list(range(tasks))
    lengths = [len(chunk) for chunk in divided]
    assert lengths == sorted(lengths, reverse=True)
    assert len(divided) >= min(tasks, 2 * workers)
    assert len(divided) <= 10 * workers
    assert lengths[-1:] in ([], [1]) or lengths[-1] <= tasks / (6 * workers)


@every
def test_every_task_is_run_once_and_a_call_shares_its_own_value(engine: str):
    shared = torch.arange(3.0)
    with compute(engine).start() as run_tasks:
        assert merged(run_tasks(times, shared, range(30))) == {task: (shared * task).tolist() for task in range(30)}
        again = merged(run_tasks(times, shared + 1, range(3)))
        assert again == {task: ((shared + 1) * task).tolist() for task in range(3)}


@every
def test_no_task_is_no_result(engine: str):
    with compute(engine).start() as run_tasks:
        assert list(run_tasks(times, torch.zeros(1), [])) == []


@every
def test_results_come_as_their_tasks_end(engine: str):
    """The first one sleeps longest."""

    with compute(engine).start() as run_tasks:
        list(run_tasks(process, None, range(4)))  # workers have started
        order = [part[0] for part in run_tasks(sleeps, None, [4, 0, 0, 1])]
    assert order[-1] == 4


def sleeps(shared: None, tasks: Sequence[int]) -> Sequence[int]:
    time.sleep(0.2 * sum(tasks))
    return tasks


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


@every
def test_an_exception_is_raised_in_place_of_its_result(engine: str):
    with compute(engine).start() as run_tasks:
        with pytest.raises(ParameterError) as error:
            list(run_tasks(fails_at_three, None, range(6)))
        assert str(error.value) == "three: is too many"
        assert sorted(task for part in run_tasks(fails_at_three, None, range(3)) for task in part) == [0, 1, 2]


@every
def test_a_worker_has_one_torch_thread(engine: str):
    with compute(engine).start() as run_tasks:
        assert set(run_tasks(threads_of_torch, None, range(4))) == {1}


@dataclass(frozen=True)
class Marks:
    """A job that leaves a file for each task it has begun."""

    folder: Path

    def __call__(self, shared: None, tasks: Sequence[int]) -> int:
        for task in tasks:
            (self.folder / str(task)).touch()
        return len(tasks)


@every
def test_only_a_few_chunks_are_begun_ahead(engine: str, tmp_path: Path):
    """So that memory does not grow with the cohort."""
    expected = [len(chunk) for chunk in chunks(range(500), 2)]
    with compute(engine).start() as run_tasks:
        results = run_tasks(Marks(tmp_path), None, range(500))
        for taken in range(1, 6):
            next(results)
            time.sleep(0.1)
            assert len(list(tmp_path.iterdir())) <= sum(expected[: taken + 4])


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


def dies_at_three(shared: None, tasks: Sequence[int]) -> Sequence[int]:
    if 3 in tasks:
        os.kill(os.getpid(), signal.SIGKILL)
    return tasks


def test_a_lost_process_is_an_error_that_says_so():
    with (
        compute("processes").start() as run_tasks,
        pytest.raises(UserError, match=r"a worker process ended \(exit code -9\); if it ran out of memory, fewer"),
    ):
        list(run_tasks(dies_at_three, None, range(8)))


@dataclass(frozen=True)
class DiesOnce:
    """A job that kills its worker at task 3, the first time."""

    marker: Path

    def __call__(self, shared: None, tasks: Sequence[int]) -> Sequence[int]:
        if 3 in tasks and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return tasks


def test_tasks_of_a_lost_ray_worker_run_again(tmp_path: Path):
    with compute("ray").start() as run_tasks:
        results = list(run_tasks(DiesOnce(tmp_path / "died"), None, range(8)))
    assert sorted(task for part in results for task in part) == list(range(8))
    assert (tmp_path / "died").exists()


def on_a_node(shared: torch.Tensor, tasks: Sequence[int]) -> tuple[int, dict[int, torch.Tensor]]:
    """Tells a machine by the process that its workers are forked from."""
    time.sleep(0.3)
    return os.getppid(), {task: shared * task for task in tasks}


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


def test_a_ray_address_where_no_cluster_is_is_an_error_that_names_it():
    with (
        pytest.raises(ParameterError, match=r"^compute\.ray_address: 127\.0\.0\.1:1: "),
        compute("ray", ray_address="127.0.0.1:1").start(),
    ):
        pass


def test_a_packed_value_comes_back_with_tensors_of_its_own():
    value = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor(3), "text"], "c": torch.zeros(0)}
    packed = pack(value)
    assert sum(buffer.nbytes for buffer in packed.buffers) == 6 * 4 + 8
    found = unpack(packed)
    assert torch.equal(found["a"], value["a"])
    assert found["b"] == value["b"]
    assert found["c"].shape == (0,)
    found["a"] += 1
    assert value["a"].sum() == 15
