"""Threads of this process: nothing to start, nothing to copy; torch releases the interpreter while it computes."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from fedpipe.engines.base import Engine, RunTasks, as_they_come, chunks
from fedpipe.system.machine import cores, train_on_threads


class Threads(Engine):
    """Run tasks in threads of this process."""

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        workers = workers or cores()
        # One torch thread each: float sums depend on how torch splits them, and workers would fight for cores.
        pool = ThreadPoolExecutor(workers, "worker", initializer=train_on_threads, initargs=(1,))

        def run_tasks(job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
            return as_they_come(
                lambda chunk: pool.submit(job, shared, chunk), first_ended, Future.result, chunks(tasks, workers),
                ahead=2 * workers,
            )  # fmt: skip

        try:
            yield run_tasks
        finally:
            pool.shutdown(cancel_futures=True)


def first_ended(pending: "list[Future[Any]]") -> "tuple[list[Future[Any]], list[Future[Any]]]":
    """Wait until some futures have ended; divide them into these and the rest."""
    ended, _ = wait(pending, return_when=FIRST_COMPLETED)
    return [future for future in pending if future in ended], [future for future in pending if future not in ended]
