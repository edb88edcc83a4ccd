"""Processes forked from one that has imported what they need, so that they share its memory (Linux).

Imports nothing beyond the standard library: who supervises such processes, such as a Ray actor, stays small.
"""

import ctypes
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

RETRIES = 5  # of a call whose process was lost


class ForkedWorkers:
    """Call a function in forked processes. Values are bytes, which only the function understands.

    Args:
        workers: how many processes.
        function: ``module:name`` of function(common, value) -> result, all bytes.
        preload: modules that the processes share.
    """

    def __init__(self, workers: int, function: str, preload: Sequence[str]) -> None:
        main = sys.modules["__main__"]
        if hasattr(main, "__file__"):
            del main.__file__  # else every process would import this program's main module
        self._function, self._context = function, multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([function.partition(":")[0], *preload])
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(_Worker(self._context, function))
        self._lock = threading.Lock()
        self._number, self._memory = 0, -1

    def call(self, number: int, common: bytes, value: bytes) -> bytes:
        """Return function(common, value), once a process is idle. A call whose process was lost is made again.

        Args:
            number: of `common`, ascending. Only the latest stays in memory.
            common: what many calls have in common.
            value: what this call is about.
        """
        path = self._in_memory(number, common)
        for _ in range(RETRIES):
            worker = self._idle.get()
            try:
                return worker.call(number, path, value)
            except (EOFError, OSError):
                worker = _Worker(self._context, self._function)
            finally:
                self._idle.put(worker)
        raise RuntimeError(f"worker processes ended {RETRIES} times; if they ran out of memory, fewer need less")

    def process(self) -> int:
        """Return the number of this process, which tells that it is there."""
        return os.getpid()

    def _in_memory(self, number: int, common: bytes) -> str:
        """Return the path of memory that holds `common` and is freed with this process."""
        with self._lock:
            if number != self._number:
                if self._number:
                    os.close(self._memory)
                self._number, self._memory = number, os.memfd_create("fedpipe")
                with os.fdopen(os.dup(self._memory), "wb") as file:
                    file.write(common)
            return f"/proc/{os.getpid()}/fd/{self._memory}"


class _Worker:
    """A process, and this side of it."""

    def __init__(self, context: ForkServerContext, function: str) -> None:
        self._connection, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, function), daemon=True).start()
        theirs.close()

    def call(self, number: int, path: str, value: bytes) -> bytes:
        """Return the function's result.

        Raises:
            EOFError, OSError: the process has ended.
        """
        self._connection.send((number, path, value))
        return self._connection.recv_bytes()


def _serve(connection: Connection, function: str) -> None:
    """Call the function in the worker's process, until it is killed."""
    end_with_parent(os.getppid())  # the process that it was forked from
    gc.freeze()  # collections would write to every object that is shared, and so copy it
    module, _, name = function.partition(":")
    call = getattr(import_module(module), name)
    while True:
        number, path, value = connection.recv()
        connection.send_bytes(call(_read(number, path), value))


@lru_cache(maxsize=1)
def _read(number: int, path: str) -> bytes:
    return Path(path).read_bytes()


def end_with_parent(parent: int) -> None:
    """Have the system end this process when its parent ends, or has ended, however that ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


_PR_SET_PDEATHSIG = 1  # prctl.h
