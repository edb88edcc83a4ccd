"""Threads of this process: nothing to start, nothing to copy; torch releases the interpreter while it computes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from fedpipe.engines.base import Engine, Map, Work, in_order
from fedpipe.machine import cores, train_on_threads


class Threads(Engine):
    @contextmanager
    def start(self, work: Work, workers: int | None) -> Iterator[Map]:
        workers = workers or cores()
        # One torch thread each: float sums depend on how torch splits them, and workers would fight for cores.
        pool = ThreadPoolExecutor(workers, "worker", initializer=train_on_threads, initargs=(1,))

        def map(shared: Any, tasks: Iterable[Any]) -> Iterator[Any]:
            return in_order(lambda task: pool.submit(work, shared, task), Future.result, tasks, ahead=2 * workers)

        try:
            yield map
        finally:
            pool.shutdown(cancel_futures=True)
