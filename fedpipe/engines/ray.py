"""Ray: the cores of a cluster. A lost worker's, or a lost machine's, clients are run again elsewhere.

Machines must see the shards and the test set under the same path, as on a shared file system.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fedpipe.engines.base import Engine, Map, Work, in_order
from fedpipe.engines.packing import Packed, pack, unpack
from fedpipe.errors import UserError
from fedpipe.machine import cores, train_on_threads

RETRIES = 5  # of a task whose worker was lost; the task's own exceptions are not tried again


class RayEngine(Engine):
    address: str | None = None  # of a running cluster; None starts one on this machine

    @contextmanager
    def start(self, work: Work, workers: int | None) -> Iterator[Map]:
        """With an address, workers: None means each of the cluster's cores."""
        try:
            import ray
        except ImportError:
            raise UserError('params.yaml: compute.engine: ray is not installed; pip install -e ".[ray]"') from None

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            options |= {"num_cpus": workers or cores(), "include_dashboard": False}
        try:
            _answers(self.address)
            ray.init(address=self.address or "local", **options)
        except (OSError, ValueError) as error:
            raise UserError(f"params.yaml: compute.ray_address: {self.address}: {error}") from None
        try:
            workers = workers or int(ray.cluster_resources()["CPU"])
            run = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
            kept = ray.put(work)

            ahead = 2 * workers

            def map(shared: Any, tasks: Iterable[Any]) -> Iterator[Any]:
                reference = ray.put(pack(shared))
                submitted = in_order(lambda task: run.remote(kept, reference, task), ray.get, tasks, ahead)
                return (unpack(packed) for packed in submitted)

            yield map
        finally:
            ray.shutdown()


def _answers(address: str | None) -> None:
    """Raises OSError if nobody listens at HOST:PORT; Ray itself would wait for minutes, then abort."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _run(work: Work, shared: Packed, task: Any) -> Packed:
    train_on_threads(1)
    return pack(work(unpack(shared), task))
