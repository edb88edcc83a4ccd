"""What a command and the machine do: a runner's report with its peak memory, and the rate of matrix products."""

import json
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

INTERVAL = 0.5  # seconds between looks at the memory


def run(module: str, *arguments: str) -> dict[str, Any]:
    """Runs `python -m module` to its end: the JSON on its last line of output, and peak_mb of all its processes.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = Peak(process.pid)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{output[-3000:]}")
    return json.loads(output.strip().splitlines()[-1]) | {"peak_mb": peak.stop()}


class Peak:
    """The most memory that a process and its descendants held at one time, shared pages counted once (PSS)."""

    def __init__(self, pid: int) -> None:
        self._root, self._most, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """In MB."""
        self._over.set()
        self._thread.join()
        return round(self._most / 1e6)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self._most = max(self._most, sum(map(_pss, family)))


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.Error, OSError):  # it has just ended
        return 0


def matrix_rate(dtype: str, threads: int, size: int = 2048, seconds: float = 1.5) -> float:
    """The best rate of torch's product of two square matrices, in GFLOP/s."""
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
    """Of a forward and a backward pass, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.peers.models import build

    with FlopCounterMode(display=False) as counter:
        build(model)(torch.randn(batch_size, 1, 28, 28)).sum().backward()
    return counter.get_total_flops() / batch_size
