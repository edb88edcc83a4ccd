"""The machine under this process: its cores, and how a process that trains is best set up."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def cores() -> int:
    """The cores this process may use, by its affinity and its cgroup."""
    import joblib  # here, because it takes a while that not every start need pay

    return joblib.cpu_count()


def train_on_threads(threads: int) -> None:
    """Sets this process, and as a worker this thread, up to train on so many torch threads."""
    torch.set_num_threads(threads)
    _keep_freed_memory()


@contextmanager
def one_thread_here() -> Iterator[None]:
    """While workers have the cores: a second torch thread of the one who waits for them would spin on theirs."""
    before = torch.get_num_threads()
    train_on_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Has glibc keep memory for the next step instead of giving it back to the system after each.

    A step frees and takes the same megabytes again and again; to have the system clear them anew each time makes some
    sequences of operations half as fast.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in every libc
            libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
