"""What a command and the machine do: a runner's report with its peak memory, and the rate of matrix products."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.workloads import Workload

INTERVAL = 0.5  # seconds from one look at the memory to the next, or
PATIENCE = 30  # times as long as a look takes, which the system spends in the processes' page tables


def run(module: str, *arguments: str, checkout: Path = Path()) -> dict[str, Any]:
    """Run `python -m module` of a checkout to its end.

    Args:
        module: a runner, which prints a line of JSON, its report.
        arguments: of its command line.
        checkout: the folder whose code runs.

    Returns:
        The report, with peak_mb of all its processes.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    checkout = checkout.resolve()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},  # before the installed package, in Ray's workers too
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = Peak(process.pid)
    output, errors = process.communicate()
    peak_mb = peak.stop()
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{(output + errors)[-3000:]}")
    return json.loads(output.strip().splitlines()[-1]) | {"peak_mb": peak_mb}


def summary(engine: str, workload: Workload, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the runs of an engine come to.

    Raises:
        RuntimeError: a run trained other examples or steps a round than the workload has.
    """
    for report in reports:
        if (report["examples"], report["steps"]) != (workload.examples_per_round, workload.steps_per_round):
            done = f"{report['examples']} examples, {report['steps']} steps a round"
            raise RuntimeError(f"{engine}, {workload.name}: {done}")
    rounds = [seconds for report in reports for seconds in report["rounds_s"]]
    return {
        "examples_per_s": round(workload.examples_per_round / statistics.median(rounds)),
        "fastest_round": round(workload.examples_per_round / min(rounds)),
        "first_round_s": min(report["first_round_s"] for report in reports),
        "peak_mb": max(report["peak_mb"] for report in reports),
        "accuracy": round(statistics.mean(report["accuracy"] for report in reports), 4),
    }


class Peak:
    """Watch the most memory that a process and its descendants hold at one time, shared pages counted once (PSS)."""

    def __init__(self, pid: int) -> None:
        self._root, self._most, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop watching, and return the peak in MB."""
        self._over.set()
        self._thread.join()
        return round(self._most / 1e6)

    def _watch(self) -> None:
        took = 0.0
        while not self._over.wait(max(INTERVAL, PATIENCE * took)):
            begun = time.perf_counter()
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self._most = max(self._most, sum(map(_pss, family)))
            took = time.perf_counter() - begun


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.Error, OSError):  # it has just ended
        return 0


def matrix_rate(dtype: str, threads: int, size: int = 2048, seconds: float = 1.5) -> float:
    """Return the best rate of torch's product of two square matrices, in GFLOP/s."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * size**3 / best / 1e9


def flop_per_example(model: str, batch_size: int) -> float:
    """Return the operations of a forward and a backward pass, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.peers.models import build

    with FlopCounterMode(display=False) as counter:
        build(model)(torch.randn(batch_size, 1, 28, 28)).sum().backward()
    return counter.get_total_flops() / batch_size
