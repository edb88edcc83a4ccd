"""Where the time of a client goes, for each workload: torch's profiler over whole clients, on one thread."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.data import prepare
from benchmarks.fedpipe_runner import data_in, experiment_of
from benchmarks.workloads import WORKLOADS, Workload
from fedpipe.data.sources import ORIGINALS
from fedpipe.engines import Compute
from fedpipe.federated.client import Client
from fedpipe.federated.messages import Broadcast, Task
from fedpipe.models.parameters import initial_parameters
from fedpipe.system.machine import train_on_threads

KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("aten::mm", "aten::addmm"),
    "pooling": ("max_pool2d", "aten::fill_"),  # its backward pass first fills with zeros
    "other operations": ("aten::",),
}
CLIENTS = {"seed": 2, "paper": 6, "mlp": 20, "tiny": 200, "big": 2}


def measure() -> pd.DataFrame:
    """Return a row a workload: milliseconds a client and a step, and the shares of each kind of operation and the rest.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    train_on_threads(1)
    with TemporaryDirectory() as scratch:
        return pd.DataFrame(
            [_row(workload, prepare(workload, Path(scratch))[1]) for workload in WORKLOADS.values()],
        )


def _row(workload: Workload, folder: Path) -> dict[str, object]:
    experiment = experiment_of(workload, 1, Compute(device="cpu"))
    architecture = experiment.model.model.on(ORIGINALS["mnist"].spec())
    store, states = data_in(folder).clients, folder / "states"
    client = Client(
        experiment.federated, architecture, experiment.seed, store, states, workload.clients, experiment.compute
    )
    broadcast = Broadcast(1, initial_parameters(architecture, experiment.seed))
    clients = CLIENTS[workload.name]

    def train() -> None:
        for k in range(clients):
            client.update(broadcast, Task(k, epochs=1, weight=1.0, client_weight=1 / workload.clients))

    elapsed = min(_seconds(train) for _ in range(4))  # without the profiler, which slows small operations
    with profiler(activities=[ProfilerActivity.CPU]) as profile:
        profiled = _seconds(train)
    spent = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), None)
        if kind:
            spent[kind] += event.self_cpu_time_total / 1e6
    steps = clients * workload.steps_per_round // workload.cohort
    shares = {kind: seconds / profiled for kind, seconds in spent.items()}
    return {
        "workload": workload.name,
        "client_ms": 1000 * elapsed / clients,
        "step_ms": 1000 * elapsed / steps,
        **shares,
        "Python and the rest": 1 - sum(shares.values()),
    }


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README."""
    kinds = [*KINDS, "Python and the rest"]
    lines = [
        f"| workload | a client | a step | {' | '.join(kinds)} |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in kinds)} |",
    ]
    lines += [
        f"| {row['workload']} | {row['client_ms']:.1f} ms | {row['step_ms']:.2f} ms "
        f"| {' | '.join(f'{row[kind]:.0%}' for kind in kinds)} |"
        for row in table.to_dict("records")
    ]
    return "\n".join(lines) + "\n"
