"""Processes forked from this one: no interpreter lock to meet, nothing to import again.

Parameters go to them, and results come back, through memory that both sides map; only a few bytes are sent.
"""

import gc
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np

from fedpipe.engines.base import Engine, RunTasks, as_they_come, chunks
from fedpipe.engines.packing import Outcome, Packed, outcome_of, pack, unpack, value_of
from fedpipe.engines.threads import first_ended
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.forked import end_with_parent
from fedpipe.system.machine import cores, train_on_threads

AVAILABLE = sys.platform == "linux"  # where a process with torch in it can be forked, and memory shared like this


class Processes(Engine):
    """Run tasks in forked processes."""

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        if not AVAILABLE:
            raise ParameterError("compute.engine", "processes works on Linux alone; use auto or threads")
        if "ray" in sys.modules:  # seen: one fork in sixty crashed
            raise ParameterError("compute.engine", "processes: not in a process that has used Ray, whose threads stay")
        pool = _Pool(workers or cores())
        try:
            yield pool.run_tasks
        finally:
            pool.stop()


class _Pool:
    """Workers that take chunks of tasks from one queue: whoever is free takes the next."""

    def __init__(self, workers: int) -> None:
        self._inbox = _Memory()
        self._calls, self._numbers = count(1), count()
        self._chunks = FORK.SimpleQueue()
        self._pending: dict[int, Future[Outcome]] = {}
        self._workers = [_Worker(self._chunks, self._inbox) for _ in range(workers)]
        # Only now: a process must be forked before its parent has threads that could hold a lock.
        for worker in self._workers:
            threading.Thread(target=self._receive, args=(worker,), daemon=True).start()

    def run_tasks(self, job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
        for future in list(self._pending.values()):
            future.exception()  # chunks of an abandoned call that are still running read the inbox
        packed = pack((job, shared))
        header = next(self._calls), packed.frame, self._inbox.write(packed.buffers)

        def submit(chunk: Sequence[Any]) -> Future[Any]:
            number = next(self._numbers)
            future = self._pending[number] = Future()
            self._chunks.put((number, header, chunk))
            return future

        workers = len(self._workers)
        return as_they_come(
            submit, first_ended, lambda future: value_of(future.result()), chunks(tasks, workers), ahead=2 * workers
        )

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._inbox.close()

    def _receive(self, worker: "_Worker") -> None:
        """Take one worker's results until its process ends."""
        try:
            while True:
                number, outcome = worker.receive()
                self._pending.pop(number).set_result(outcome)
        except (EOFError, OSError):
            code = worker.exit_code()
            error = (
                f"a worker process ended (exit code {code}); if it ran out of memory, fewer compute.workers need less"
            )
            while self._pending:  # nobody knows which of them it had
                self._pending.popitem()[1].set_exception(UserError(error))


class _Worker:
    """A process, and this side of it."""

    def __init__(self, chunks: Any, inbox: "_Memory") -> None:
        # Two, so that the process can go on while one result is being read.
        self._outboxes = [_Memory(), _Memory()]
        self._free = FORK.Semaphore(len(self._outboxes))
        self._results, theirs = FORK.Pipe(duplex=False)
        self._process = FORK.Process(
            target=_serve, args=(chunks, inbox, self._outboxes, self._free, theirs, os.getpid()), daemon=True
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of forking with threads about. Torch's and NumPy's threads, which sleep, are no harm.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def receive(self) -> tuple[int, Outcome]:
        """Return a chunk's number, and what came of it.

        Raises:
            EOFError: the process has ended.
        """
        number, frame, outbox, sizes = self._results.recv()
        outcome = unpack(Packed(frame, self._outboxes[outbox].read(sizes)))
        self._free.release()
        return number, outcome

    def exit_code(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def stop(self) -> None:
        self._process.kill()  # it holds nothing that anyone needs
        self._process.join()
        for outbox in self._outboxes:
            outbox.close()


def _serve(chunks: Any, inbox: "_Memory", outboxes: "list[_Memory]", free: Any, results: Any, parent: int) -> None:
    """Run chunks of tasks in the worker's process, until it is killed."""
    end_with_parent(parent)
    gc.freeze()  # collections would write to every object that is shared, and so copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    train_on_threads(1)
    call: int = 0
    job: Any = None
    shared: Any = None
    for turn in count():
        number, (coming, frame, sizes), chunk = chunks.get()
        if coming != call:
            call, (job, shared) = coming, unpack(Packed(frame, inbox.read(sizes)))
        packed = outcome_of(job, shared, chunk, pack)
        free.acquire()
        outbox = turn % len(outboxes)
        results.send((number, packed.frame, outbox, outboxes[outbox].write(packed.buffers)))


class _Memory:
    """Map memory in a process and in those forked from it; it grows as it must."""

    def __init__(self) -> None:
        self._file = os.memfd_create("fedpipe")
        self._map: mmap.mmap | None = None

    def write(self, buffers: Sequence[np.ndarray]) -> list[int]:
        """Put the buffers one after the other and return their sizes."""
        sizes = [buffer.nbytes for buffer in buffers]
        view, start = self._view(sum(sizes)), 0
        for buffer, size in zip(buffers, sizes, strict=True):
            view[start : start + size] = buffer
            start += size
        return sizes

    def read(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Return the buffers where they lie, valid until they are written over."""
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
