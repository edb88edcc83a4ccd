"""Laws of every engine: the same results in the same order, whatever runs them, and a lost worker is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpipe.engines import Compute
from fedpipe.engines.packing import pack, unpack
from fedpipe.errors import UserError

ENGINES = ["threads", "processes", "ray"]
every = pytest.mark.parametrize("engine", ENGINES)


def compute(engine: Any, workers: int = 2, **settings: Any) -> Compute:
    return Compute(engine=engine, workers=workers, device="cpu", **settings)


def times(shared: torch.Tensor, task: int) -> torch.Tensor:
    time.sleep(0.02 * (task % 3 == 0))  # so that tasks do not end in their order
    return shared * task


def fails_at_three(shared: None, task: int) -> int:
    if task == 3:
        raise UserError("params.yaml: three is too many")
    return task


def threads_of_torch(shared: None, task: int) -> int:
    return torch.get_num_threads()


def process(shared: None, task: int) -> int:
    return os.getpid()


@every
def test_results_come_in_the_order_of_the_tasks(engine: str):
    shared = torch.arange(3.0)
    with compute(engine).start(times) as map:
        found = list(map(shared, range(12)))
        assert [result.tolist() for result in found] == [(shared * task).tolist() for task in range(12)]
        again = list(map(shared + 1, range(3)))  # a worker takes what the new call shares
        assert [result.tolist() for result in again] == [((shared + 1) * task).tolist() for task in range(3)]


@every
def test_no_task_is_no_result(engine: str):
    with compute(engine).start(times) as map:
        assert list(map(torch.zeros(1), [])) == []


@every
def test_results_belong_to_their_receiver(engine: str):
    """They neither change when more come, nor does changing them change anything."""
    shared = torch.ones(1000)
    with compute(engine, workers=1).start(times) as map:
        results = []
        for result in map(shared, range(6)):
            results.append(result)
            result += 0.5
        assert [result.unique().tolist() for result in results] == [[task + 0.5] for task in range(6)]
    assert shared.unique().tolist() == [1]


@every
def test_a_mistake_is_raised_where_its_result_is_taken(engine: str):
    with compute(engine).start(fails_at_three) as map:
        results = map(None, range(6))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match=r"params\.yaml: three is too many"):
            next(results)
        assert list(map(None, range(2))) == [0, 1]  # and the engine goes on


@every
def test_a_worker_has_one_torch_thread(engine: str):
    with compute(engine).start(threads_of_torch) as map:
        assert set(map(None, range(4))) == {1}


@every
def test_only_a_few_tasks_are_begun_ahead(engine: str):
    """So that memory does not grow with the cohort."""
    begun = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            begun.append(task)
            yield task

    with compute(engine).start(times) as map:
        results = map(torch.ones(1), tasks())
        for taken in range(1, 11):
            next(results)
            assert len(begun) <= taken + 4


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_workers_are_other_processes(engine: str):
    with compute(engine).start(process) as map:
        assert os.getpid() not in set(map(None, range(8)))


@every
def test_the_engine_leaves_torchs_threads_as_they_were(engine: str):
    torch.set_num_threads(2)
    with compute(engine).start(times) as map:
        list(map(torch.ones(1), range(2)))
    assert torch.get_num_threads() == 2


def test_auto_takes_the_cores_that_the_process_may_use():
    """As `taskset` leaves them."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from fedpipe.machine import cores; print(cores())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "1\n"


def test_processes_end_with_their_engine():
    with compute("processes").start(process) as map:
        workers = set(map(None, range(20)))
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def dies_at_three(shared: None, task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_lost_process_is_an_error_that_says_so():
    with (
        compute("processes").start(dies_at_three) as map,
        pytest.raises(UserError, match=r"a worker process ended \(exit code -9\); if it ran out of memory, fewer"),
    ):
        list(map(None, range(8)))


def dies_once(marker: Path) -> Callable[[Any, int], int]:
    def work(shared: None, task: int) -> int:
        if task == 3 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return work


def test_a_task_of_a_lost_ray_worker_runs_again(tmp_path: Path):
    with compute("ray").start(dies_once(tmp_path / "died")) as map:
        assert list(map(None, range(8))) == list(range(8))
    assert (tmp_path / "died").exists()


def test_ray_joins_a_cluster_and_survives_the_loss_of_a_node_in_the_middle_of_a_call(tmp_path: Path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)

    def work(shared: torch.Tensor, task: int) -> tuple[str, torch.Tensor]:
        import ray

        time.sleep(0.3)
        return ray.get_runtime_context().get_node_id(), shared * task

    try:
        shared = torch.ones(200_000)  # large enough that results stay on the node that made them
        with Compute(engine="ray", ray_address=cluster.address, device="cpu").start(work) as map:
            nodes = {node for node, _ in map(shared, range(4))}
            assert len(nodes) == 2
            results = map(shared, range(10))
            found = [next(results)]
            threading.Timer(0.1, cluster.remove_node, [second], {"allow_graceful": False}).start()
            found += results
            assert [result[0].item() for _, result in found] == list(range(10))
            assert found[-1][0] in nodes
            assert {node for node, _ in map(shared, range(3))} == {found[-1][0]}
    finally:
        cluster.shutdown()


def test_a_ray_address_where_no_cluster_is_is_an_error_that_names_it():
    with (
        pytest.raises(UserError, match=r"^params\.yaml: compute\.ray_address: 127\.0\.0\.1:1: "),
        compute("ray", ray_address="127.0.0.1:1").start(times),
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
