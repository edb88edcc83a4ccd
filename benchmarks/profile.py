"""Where the time of a client goes, for each work: torch's profiler over whole clients, on one thread."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.data import prepare
from benchmarks.works import WORKS, Work
from fedpipe import shards
from fedpipe.client import Broadcast, Client, Local, Task
from fedpipe.machine import train_on_threads
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.strategies.fedavg import FedAvg

KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("aten::mm", "aten::addmm"),
    "pooling": ("max_pool2d", "aten::fill_"),  # its backward pass first fills with zeros
    "other operations": ("aten::",),
}
CLIENTS = {"seed": 2, "paper": 6, "mlp": 20, "tiny": 200, "big": 2}


def measure() -> pd.DataFrame:
    """A row a work: milliseconds a client and a step, and the share of each kind of operation and of the rest."""
    train_on_threads(1)
    with TemporaryDirectory() as scratch:
        return pd.DataFrame([_row(work, prepare(work, Path(scratch))[1]) for work in WORKS.values()])


def _row(work: Work, folder: Path) -> dict[str, object]:
    model = ModelChoice.model_validate({"name": work.model}).model
    parameters = initial_parameters(model, 0)
    local = Local(epochs=1, batch_size=work.batch_size, optimizer="sgd", lr=work.lr)
    client = Client(FedAvg(), model, local, seed=0, evaluates=False)
    population = shards.locate(folder / "shards")
    clients = CLIENTS[work.name]

    def train() -> None:
        for k in range(clients):
            client.train(Task(1, k, population[k], epochs=1, weight=1.0), Broadcast(parameters))

    elapsed = min(_seconds(train) for _ in range(4))  # without the profiler, which slows small operations
    with profiler(activities=[ProfilerActivity.CPU]) as profile:
        profiled = _seconds(train)
    spent = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), None)
        if kind:
            spent[kind] += event.self_cpu_time_total / 1e6
    steps = clients * -(-work.per_client // work.batch_size)
    shares = {kind: seconds / profiled for kind, seconds in spent.items()}
    return {
        "work": work.name,
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
    kinds = [*KINDS, "Python and the rest"]
    lines = [
        f"| work | a client | a step | {' | '.join(kinds)} |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in kinds)} |",
    ]
    lines += [
        f"| {row['work']} | {row['client_ms']:.1f} ms | {row['step_ms']:.2f} ms "
        f"| {' | '.join(f'{row[kind]:.0%}' for kind in kinds)} |"
        for row in table.to_dict("records")
    ]
    return "\n".join(lines) + "\n"
