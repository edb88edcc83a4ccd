"""Processes forked from one that has imported what they need, so that they share its memory (Linux).

Imports nothing large: who supervises such processes, such as a Ray actor, stays small.
"""

import ctypes
import fcntl
import gc
import mmap
import os
import pickle
import queue
import secrets
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
import weakref
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from io import RawIOBase
from itertools import accumulate, chain
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, TypeVar

from fedpipe.system.errors import UserError, naming

Item = TypeVar("Item")

ATTEMPTS = 5  # to run tasks whose processes were lost
SECONDS = 1.0  # that a worker takes tasks for one result
WORTHWHILE = 0.2  # seconds of work that others may take over: to have one result more takes a hundredth
TICKETS = 512  # of a run: any pipe holds them all
TICKET = struct.Struct("II")  # the places of some tasks: start, stop
ALIGNED = 64  # bytes: where a buffer may begin

Results = queue.SimpleQueue["tuple[list[int], Packed] | None"]  # indices of tasks, and what came of these


@dataclass(frozen=True)
class Packed:
    """A value between processes. Pickled with protocol 5, it leaves its buffers where they lie."""

    frame: bytes  # a pickle of everything but the buffers' contents
    buffers: Sequence[memoryview] = ()  # of bytes, in the frame's order

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self.frame, [pickle.PickleBuffer(buffer) for buffer in self.buffers])


@dataclass(frozen=True)
class ForkServer:
    """A process that forks another one for whoever connects to it and knows the key."""

    name: str  # of a socket that is no file, so nothing is left behind
    key: bytes

    def connect(self) -> Connection:
        """Return a connection to a new process.

        Raises:
            OSError, EOFError, AuthenticationError: the server is not on this machine, or has ended.
        """
        return Client(self.name, "AF_UNIX", authkey=self.key)


@contextmanager
def fork_server(preload: Sequence[str] | None = None) -> Iterator[ForkServer]:
    """Start a fork server, which ends with the context, or with this process however that ends.

    Args:
        preload: modules that a new process is to import. None forks this process, which must have no threads that
            could hold a lock; what it has imported it then shares.
    """
    server = ForkServer(f"\0fedpipe-{secrets.token_hex(8)}", secrets.token_bytes())
    stdin, lifeline = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener, os.fdopen(stdin) as theirs, os.fdopen(lifeline, "wb", 0) as ours:
        listener.bind(server.name)
        listener.listen()
        if preload is None:
            with warnings.catch_warnings():
                # Python 3.12 warns of threads. Torch's and NumPy's, which sleep, are no harm.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                ours.close()
                _fork_for_each(listener, theirs.fileno(), server.key)
        else:
            os.set_inheritable(listener.fileno(), True)
            code = f"from {__name__} import _new_server; _new_server()"
            setting = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=theirs, env=setting, pass_fds=[listener.fileno()]
            )
            child = process.pid
            ours.write(pickle.dumps((listener.fileno(), server.key, preload)))
        listener.close()
        theirs.close()
        try:
            yield server
        finally:
            with suppress(OSError):  # it was lost
                ours.write(b"end")  # closing would not do if another process has been forked since, and holds this end
                os.waitpid(child, 0)


def _new_server() -> None:
    """Serve in a process that `fork_server` has started."""
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
        listener, key, preload = pickle.load(stdin)
    for module in preload:
        with suppress(ImportError):  # whoever needs it will say so
            import_module(module)
    _fork_for_each(socket.socket(fileno=listener), sys.stdin.fileno(), key)


def _fork_for_each(listener: socket.socket, lifeline: int, key: bytes) -> None:
    """Fork a process for each connection until something comes on the lifeline, or its end; never return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches those who supervise, who end this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # collections would write to every object that is shared, and so copy it
    server, children = os.getpid(), set[int]()
    try:
        while lifeline not in wait([listener.fileno(), lifeline]):
            children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
            connection = Connection(listener.accept()[0].detach())
            with connection, suppress(EOFError, OSError, AuthenticationError):
                deliver_challenge(connection, key)
                answer_challenge(connection, key)
                child = os.fork()
                if not child:
                    end_with_parent(server)
                    listener.close()
                    os.close(lifeline)
                    _serve(connection)
                children.add(child)
    finally:
        if os.getpid() == server:
            for child in children:
                os.kill(child, signal.SIGKILL)  # it holds nothing that anyone needs
                os.waitpid(child, 0)
        os._exit(0)


def _serve(connection: Connection) -> None:
    """Take part in runs in a forked process until nobody begins any more: see `_Worker.begin`."""
    module, _, name = connection.recv().partition(":")
    kind: Any = getattr(import_module(module), name)
    handler: Any = None
    while True:
        common_comes, indices = connection.recv()
        if common_comes:
            handler = None  # frees the memory of the one before
            handler = kind(_received(connection))
        with os.fdopen(recv_handle(connection), "rb", buffering=0) as tickets:
            while ticket := tickets.read(TICKET.size):
                taken = _Taken(ticket, tickets, indices)
                answer = _Sent(handler(taken))
                connection.send(taken.indices)
                answer.to(connection)
        connection.send(None)


class _Taken:
    """The tasks that a process takes for one result."""

    def __init__(self, first: bytes, tickets: RawIOBase, indices: Sequence[int]) -> None:
        self.indices: list[int] = []
        self._first, self._tickets, self._every = first, tickets, indices

    def __iter__(self) -> Iterator[int]:
        following = iter(lambda: self._tickets.read(TICKET.size), b"")
        for ticket in for_a_while(chain([self._first], following)):
            start, stop = TICKET.unpack(ticket)
            for index in self._every[start:stop]:
                self.indices.append(index)
                yield index


def for_a_while(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, at least one if there is one, as long as a worker goes on with one result."""
    end = time.monotonic() + SECONDS
    for item in items:
        yield item
        if time.monotonic() > end:
            return


class ForkedWorkers:
    """Run tasks in forked processes, whoever is free taking the next.

    A handler is made in each process of a `Packed` value, tasks and all, that runs have in common. It is called with an
    iterator over the numbers of the tasks that it is to do, and returns a `Packed` result. The iterator takes tasks
    from those that are left, one after the other, and ends when there are none or a second is over: results are few,
    but come often enough to tell of progress, and all processes are busy to the end.

    Args:
        workers: how many processes.
        handler: ``module:class`` of the handlers.
        server: forks the processes if it is on this machine; else a new one does.
        preload: modules that the processes of a new one share.
    """

    def __init__(self, workers: int, handler: str, server: ForkServer | None, preload: Sequence[str] = ()) -> None:
        self._handler, self._preload, self._server = handler, preload, server
        self._started, self._lock = ExitStack(), threading.Lock()
        self._number, self._common = 0, _Sent(Packed(b""))
        self._running: weakref.WeakSet[_Tickets] = weakref.WeakSet()
        self._wanted = workers
        self._workers: list[_Worker] = []  # none before the first run, for importing what they need may take long

    def run(self, number: int, common: Packed, indices: Sequence[int]) -> Iterator[tuple[list[int], Packed]]:
        """Yield numbers of tasks and the handler's result of these, as they come. Lost processes' tasks run again.

        Several threads may do so at the same time; a process turns to the next run when nothing of one is left to take.
        A run ends early if its iterator is closed, and where one with a later number begins.

        Args:
            number: of `common`, ascending. Only the latest stays in memory.
            common: what runs of the same number have in common.
            indices: the numbers of the tasks.

        Raises:
            UserError: processes were lost again and again.
        """
        left, in_vain = indices, 0
        while left and number >= self._number:
            done: set[int] = set()
            with _Tickets(left) as tickets:
                for some, result in self._run(number, common, tickets):
                    done.update(some)
                    yield some, result
            left = [index for index in left if index not in done and index not in tickets.given]
            in_vain = 0 if done else in_vain + 1
            if in_vain == ATTEMPTS:
                reason = "if they ran out of memory, fewer compute.workers need less"
                raise UserError(f"worker processes ended {ATTEMPTS} times; {reason}")

    def give_up(self, number: int) -> list[int]:
        """Return the numbers of tasks that runs of `number` will not do: half those left, if that is worth it."""
        with self._lock:
            if number != self._number:  # they have not begun
                return []
            return [index for tickets in self._running for index in tickets.give_up()]

    def process(self) -> int:
        """Return the number of this process, which tells that it is there."""
        return os.getpid()

    def _run(self, number: int, common: Packed, tickets: "_Tickets") -> Iterator[tuple[list[int], Packed]]:
        """Yield as `run` does, without the tasks of processes that are lost."""
        results = Results()
        with self._lock:
            if number < self._number:
                return
            if number > self._number:
                self._number, self._common = number, _Sent(common)
                for abandoned in self._running:
                    abandoned.take_back()
            self._running.add(tickets)
            self._workers = [worker for worker in self._workers if worker.alive]
            self._workers += [self._new_worker() for _ in range(self._wanted - len(self._workers))]
            for worker in self._workers:
                worker.begin(results, self._common, tickets)
            working = len(self._workers)
        while working:
            result = results.get()
            if result is None:
                working -= 1
            else:
                yield result

    def _new_worker(self) -> "_Worker":
        with suppress(OSError, EOFError, AuthenticationError):  # where it is on another machine
            if self._server:
                return _Worker(self._server.connect(), self._handler)
        self._server = self._started.enter_context(fork_server([self._handler.partition(":")[0], *self._preload]))
        return _Worker(self._server.connect(), self._handler)


class _Worker:
    """A forked process, seen from who supervises it."""

    def __init__(self, connection: Connection, handler: str) -> None:
        self._connection, self._common = connection, None
        self._runs: deque[Results] = deque()  # which it has not ended, the current one first
        self._lock = threading.Lock()
        self.alive = True
        connection.send(handler)
        threading.Thread(target=self._receive, daemon=True).start()

    def begin(self, results: Results, common: "_Sent", tickets: "_Tickets") -> None:
        """Let the process take part in a run: put what it returns into `results`, and None when it is through."""
        with self._lock:
            self._runs.append(results)
            if not self.alive:
                self._end()
                return
            with suppress(OSError):  # it has ended, as `_receive` will see
                self._connection.send((common is not self._common, tickets.indices))
                if common is not self._common:
                    common.to(self._connection)
                    self._common = common
                send_handle(self._connection, tickets.source, None)

    def _receive(self) -> None:
        """Take what comes until the process ends."""
        with suppress(EOFError, OSError):
            while True:
                indices = self._connection.recv()
                if indices is None:
                    self._runs.popleft().put(None)
                else:
                    self._runs[0].put((indices, _received(self._connection)))
        with self._lock:
            self.alive = False
            self._connection.close()
            self._end()

    def _end(self) -> None:
        while self._runs:
            self._runs.popleft().put(None)


class _Tickets:
    """A pipe of tickets for tasks: whoever reads one first has it. Leaving takes back those that are left."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices
        self.given: set[int] = set()  # indices that this run is not to do any more
        self._lock = threading.Lock()  # closing the pipe and reading from it take turns
        self.source, sink = os.pipe()
        self._file = os.fdopen(self.source, "rb", buffering=0)
        self._begun, step = time.monotonic(), -(-len(indices) // TICKETS)
        self._number = -(-len(indices) // step)
        with os.fdopen(sink, "wb") as file:
            for start in range(0, len(indices), step):
                file.write(TICKET.pack(start, min(start + step, len(indices))))

    def give_up(self) -> list[int]:
        """Take back half the tickets that are left, if these take long enough, and return their indices."""
        given: list[int] = []
        with self._lock:
            if not self._file.closed:
                size = array("i", [0])
                fcntl.ioctl(self._file, termios.FIONREAD, size)
                left = size[0] // TICKET.size
                each = (time.monotonic() - self._begun) / max(1, self._number - left)
                if each * left > WORTHWHILE:
                    for start, stop in TICKET.iter_unpack(self._file.read(left // 2 * TICKET.size)):
                        given += self.indices[start:stop]
            self.given.update(given)
        return given

    def take_back(self) -> None:
        with self._lock:
            while not self._file.closed and self._file.read(TICKET.size * TICKETS):
                pass

    def __enter__(self) -> "_Tickets":
        return self

    def __exit__(self, *_: object) -> None:
        self.take_back()
        with self._lock:
            self._file.close()


class _Sent:
    """A value that can be sent to processes of this machine: its buffers by way of memory that both map."""

    def __init__(self, packed: Packed) -> None:
        self._frame, self._sizes = packed.frame, [memoryview(buffer).nbytes for buffer in packed.buffers]
        self._memory: int | None = None
        if any(self._sizes):
            self._memory = os.memfd_create("fedpipe")
            weakref.finalize(self, os.close, self._memory)
            with naming("memory that processes share"), open(self._memory, "wb", closefd=False) as file:
                for buffer, size in zip(packed.buffers, self._sizes, strict=True):
                    file.write(buffer)
                    file.write(b"\0" * (-size % ALIGNED))

    def to(self, connection: Connection) -> None:
        """Send it; `_received` receives it."""
        connection.send((self._frame, self._sizes))
        if self._memory is not None:
            send_handle(connection, self._memory, None)


def _received(connection: Connection) -> Packed:
    """Return what a `_Sent` sends. To change its buffers changes nobody else's; their memory is freed with them."""
    frame, sizes = connection.recv()
    if not any(sizes):
        return Packed(frame, [memoryview(b"") for _ in sizes])
    memory, room = recv_handle(connection), [size + -size % ALIGNED for size in sizes]
    try:
        view = memoryview(mmap.mmap(memory, sum(room), access=mmap.ACCESS_COPY))
    finally:
        os.close(memory)
    starts = accumulate(room[:-1], initial=0)
    return Packed(frame, [view[start : start + size] for start, size in zip(starts, sizes, strict=True)])


def end_with_parent(parent: int) -> None:
    """Have the system end this process when its parent ends, or has ended, however that ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


_PR_SET_PDEATHSIG = 1  # prctl.h
