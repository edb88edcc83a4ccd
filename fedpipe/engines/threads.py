"""Threads of this process: nothing to start, nothing to copy; torch releases the interpreter while it computes."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from fedpipe.engines.base import Engine, RunTasks
from fedpipe.system.forked import for_a_while
from fedpipe.system.machine import cores, train_on_threads, wait_for_end


class Threads(Engine):
    """Run tasks in threads of this process."""

    @contextmanager
    def start(self, workers: int | None) -> Iterator[RunTasks]:
        workers = workers or cores()
        threads: list[int] = []

        def begin() -> None:
            threads.append(threading.get_native_id())
            # One torch thread each: float sums depend on how torch splits them, and workers would fight for cores.
            train_on_threads(1)

        pool = ThreadPoolExecutor(workers, "worker", initializer=begin)

        def run_tasks(job: Any, shared: Any, tasks: Any, /) -> Iterator[Any]:
            left = deque(tasks)

            def take() -> Iterator[Any]:
                while left:
                    try:
                        yield left.popleft()
                    except IndexError:  # another thread has taken the last one
                        return

            def work() -> list[Any]:
                taken = for_a_while(take())
                return [job(shared, chain([first], taken)) for first in islice(taken, 1)]

            working = {pool.submit(work) for _ in range(workers)}
            try:
                while working:
                    ended, working = wait(working, return_when=FIRST_COMPLETED)
                    for future in ended:
                        if left:
                            working.add(pool.submit(work))
                        yield from future.result()
            finally:
                left.clear()

        try:
            yield run_tasks
        finally:
            pool.shutdown()
            wait_for_end(threads)  # a process may be forked next
