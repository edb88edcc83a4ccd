"""Processes forked from this one: no interpreter lock to meet, nothing to import again.

Parameters go to them, and updates come back, through memory that both sides map; only a few bytes are sent.
"""

import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np

from fedpipe.engines.base import Engine, Map, Work, in_order
from fedpipe.engines.packing import Packed, pack, unpack
from fedpipe.errors import UserError
from fedpipe.machine import cores, train_on_threads

AVAILABLE = sys.platform == "linux"  # where forking a process with torch in it is sound, and memory can be shared so


class Processes(Engine):
    @contextmanager
    def start(self, work: Work, workers: int | None) -> Iterator[Map]:
        if not AVAILABLE:
            raise UserError("params.yaml: compute.engine: processes works on Linux alone; use auto or threads")
        if "ray" in sys.modules:  # seen: one fork in sixty crashed
            raise UserError("compute.engine: processes: not in a process that has used Ray, whose threads stay")
        pool = _Pool(work, workers or cores())
        try:
            yield pool.map
        finally:
            pool.stop()


class _Pool:
    """Workers that take tasks from one queue: who is free takes the next."""

    def __init__(self, work: Work, workers: int) -> None:
        self._inbox = _Memory()
        self._calls, self._numbers = count(1), count()
        self._tasks = FORK.SimpleQueue()
        self._pending: dict[int, Future[Any]] = {}
        self._workers = [_Worker(work, self._tasks, self._inbox) for _ in range(workers)]
        # Only now: a process must be forked before its parent has threads that could hold a lock.
        for worker in self._workers:
            threading.Thread(target=self._receive, args=(worker,), daemon=True).start()

    def map(self, shared: Any, tasks: Iterable[Any]) -> Iterator[Any]:
        for future in list(self._pending.values()):
            future.exception()  # what is still running of an abandoned call reads the inbox
        packed = pack(shared)
        header = next(self._calls), packed.frame, self._inbox.write(packed.buffers)

        def submit(task: Any) -> Future[Any]:
            number = next(self._numbers)
            future = self._pending[number] = Future()
            self._tasks.put((number, header, task))
            return future

        return in_order(submit, Future.result, tasks, ahead=2 * len(self._workers))

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._inbox.close()

    def _receive(self, worker: "_Worker") -> None:
        """Takes one worker's results, until it is no more."""
        try:
            while True:
                number, done, result = worker.receive()
                future = self._pending.pop(number)
                future.set_result(result) if done else future.set_exception(result)
        except (EOFError, OSError):
            code = worker.exit_code()
            error = (
                f"a worker process ended (exit code {code}); if it ran out of memory, fewer compute.workers need less"
            )
            while self._pending:  # nobody knows which of them it had
                self._pending.popitem()[1].set_exception(UserError(error))


class _Worker:
    """A process, and this side's end of it."""

    def __init__(self, work: Work, tasks: Any, inbox: "_Memory") -> None:
        # Two, so that it can go on while one result is being read.
        self._outboxes = [_Memory(), _Memory()]
        self._free = FORK.Semaphore(len(self._outboxes))
        self._results, theirs = FORK.Pipe(duplex=False)
        self._process = FORK.Process(
            target=_serve, args=(work, tasks, inbox, self._outboxes, self._free, theirs, os.getpid()), daemon=True
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of forking with threads about. Torch's and NumPy's threads, which sleep, are no harm.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def receive(self) -> tuple[int, bool, Any]:
        """A task's number, whether it was done, and its result or exception. EOFError once the process has ended."""
        number, done, frame, outbox, sizes = self._results.recv()
        result = unpack(Packed(frame, self._outboxes[outbox].read(sizes)))
        self._free.release()
        return number, done, result

    def exit_code(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def stop(self) -> None:
        self._process.kill()  # it holds nothing that anybody needs
        self._process.join()
        for outbox in self._outboxes:
            outbox.close()


def _serve(
    work: Work, tasks: Any, inbox: "_Memory", outboxes: "list[_Memory]", free: Any, results: Any, parent: int
) -> None:
    """The worker's side."""
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    train_on_threads(1)
    call, shared = 0, None
    for turn in count():
        number, (coming, frame, sizes), task = tasks.get()
        try:
            if coming != call:
                call, shared = coming, unpack(Packed(frame, inbox.read(sizes)))
            packed, done = pack(work(shared, task)), True
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            packed, done = pack(error), False
        free.acquire()
        outbox = turn % len(outboxes)
        results.send((number, done, packed.frame, outbox, outboxes[outbox].write(packed.buffers)))


def _end_with(parent: int) -> None:
    """Has the system end this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Memory:
    """Memory that a process and those forked from it map alike; grows as it must."""

    def __init__(self) -> None:
        self._file = os.memfd_create("fedpipe")
        self._map: mmap.mmap | None = None

    def write(self, buffers: Sequence[np.ndarray]) -> list[int]:
        """Puts the buffers one after the other; returns their sizes."""
        sizes = [buffer.nbytes for buffer in buffers]
        view, start = self._view(sum(sizes)), 0
        for buffer, size in zip(buffers, sizes, strict=True):
            view[start : start + size] = buffer
            start += size
        return sizes

    def read(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """The buffers where they lie, until they are written over."""
        view = self._view(sum(sizes))
        ends = np.cumsum(sizes, dtype=int)
        return [view[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def close(self) -> None:
        os.close(self._file)

    def _view(self, size: int) -> np.ndarray:
        if self._map is None or len(self._map) < size:
            length = max(os.fstat(self._file).st_size, size, mmap.PAGESIZE)
            os.ftruncate(self._file, length)
            self._map = mmap.mmap(self._file, length)
        return np.frombuffer(self._map, np.uint8)


FORK = multiprocessing.get_context("fork") if AVAILABLE else multiprocessing.get_context()
_PR_SET_PDEATHSIG = 1  # prctl.h
