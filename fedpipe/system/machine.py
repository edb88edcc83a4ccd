"""The machine that this process runs on: its cores, and the set-up of a process that trains."""

import ctypes
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its cgroup."""
    import joblib  # slow, and few processes ask

    return joblib.cpu_count()


def train_on_threads(threads: int) -> None:
    """Set this process up to train on this many torch threads.

    Where workers are threads, each calls this for itself: torch sets the number for the calling thread.
    """
    torch.set_num_threads(threads)
    _keep_freed_memory()


def wait_for_end(threads: Iterable[int]) -> None:
    """Wait until threads that Python has joined have ended for the system too (Linux; elsewhere nobody forks).

    At a thread's end, torch's matrix products free memory under a lock. A process that is forked in that moment would
    wait for it for ever, and Python's own waiting ends before.

    Args:
        threads: by the system's numbers.
    """
    for thread in threads:
        while Path(f"/proc/self/task/{thread}").exists():
            time.sleep(0.0005)


@contextmanager
def one_thread_here() -> Iterator[None]:
    """Use one torch thread in this thread while the block runs.

    An engine waits for its workers in such a block: further torch threads of the waiting thread would spin on the
    workers' cores.
    """
    before = torch.get_num_threads()
    train_on_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next training step instead of returning it to the system.

    Each step takes and frees the same megabytes. Having the system clear them every time makes some sequences of
    operations half as fast.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in every libc
            libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
