"""Threads of this process: nothing to start, nothing to copy; torch releases the interpreter while it computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from fedpipe.engines.base import Engine, Map


class Threads(Engine):
    @contextmanager
    def start(self, workers: int) -> Iterator[Map]:
        # One torch thread each: float sums depend on how torch splits them, and workers would fight for cores.
        pool = ThreadPoolExecutor(workers, "worker", initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
