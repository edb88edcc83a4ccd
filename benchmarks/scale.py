"""Does a round cost by the cohort and not by the population? The same round with ever more clients to draw it from."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import MNIST
from benchmarks.measure import run
from fedpipe import datasets, shards
from fedpipe.partition import Partition
from fedpipe.strategies import STRATEGIES

POPULATIONS = (100, 1_000, 10_000, 100_000)
EXAMPLES = 10  # a client; drawn from MNIST with replacement
COHORT = 100
REPEATS = 3  # populations in turn


def measure(scratch: Path, strategy: str) -> pd.DataFrame:
    """A row a population, with client state up to 10,000: partitioning, what DVC needs, the round, the memory."""
    populations = POPULATIONS[:-1] if STRATEGIES[strategy].keeps_state else POPULATIONS
    rows = {clients: _partition(clients, scratch / str(clients)) for clients in populations}
    runs: dict[int, list[dict[str, Any]]] = {clients: [] for clients in populations}
    for _ in range(REPEATS):
        for clients in populations:
            runs[clients].append(run("benchmarks.scale_runner", str(scratch / str(clients)), str(COHORT), strategy))
    table = pd.DataFrame([rows[clients] | _summary(runs[clients]) for clients in populations])
    return table.assign(
        time_ratio=(table["round_s"] / table["round_s"].iloc[0]).round(2),
        memory_ratio=(table["peak_mb"] / table["peak_mb"].iloc[0]).round(2),
    )


def _partition(clients: int, folder: Path) -> dict[str, Any]:
    train = datasets.load(MNIST / "train.safetensors")
    start = time.perf_counter()
    assignment = Partition(clients=clients, examples_per_client=EXAMPLES).assign(train.labels.numpy(), seed=0)
    shards.write(folder / "shards", train.images, train.labels, assignment, 10)
    partition_s = time.perf_counter() - start
    files = sum(1 for _ in (folder / "shards").iterdir())
    (folder / "test.safetensors").symlink_to((MNIST / "test.safetensors").resolve())
    return {"clients": clients, "files": files, "partition_s": round(partition_s, 1), "dvc_s": round(_dvc(folder), 1)}


def _dvc(folder: Path) -> float:
    """Seconds that `dvc add` takes to hash and keep the shards, in a repository of its own."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    start = time.perf_counter()
    subprocess.run(["dvc", "add", "-q", "shards"], cwd=folder, check=True)
    return time.perf_counter() - start


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [round for run in runs for round in run["rounds_s"]]
    return {
        "start_s": min(run["first_round_s"] for run in runs),
        "round_s": round(statistics.median(seconds), 4),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
    }


def as_markdown(table: pd.DataFrame, strategy: str) -> str:
    lines = [
        f"{strategy}, 2NN, {COHORT} clients a round of {EXAMPLES} examples each, B=10, one local epoch, "
        "engine processes.",
        "",
        "| clients | files | partition | dvc add | to end of round 1 | a round | ratio | peak MB | ratio |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_line(row) for row in table.to_dict("records")]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    def cells() -> Iterator[str]:
        yield f"{row['clients']:,}"
        yield f"{row['files']:,}"
        yield f"{row['partition_s']:.1f} s"
        yield f"{row['dvc_s']:.1f} s"
        yield f"{row['start_s']:.1f} s"
        yield f"{1000 * row['round_s']:.0f} ms"
        yield f"{row['time_ratio']:.2f}"
        yield f"{row['peak_mb']:,.0f}"
        yield f"{row['memory_ratio']:.2f}"

    return f"| {' | '.join(cells())} |"
