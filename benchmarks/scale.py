"""How a round's time and memory grow: with the population hardly at all, with the cohort in proportion to it.

The same clients of ten examples throughout: first ever more clients to draw a cohort from, then ever larger cohorts.
"""

import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import load_mnist, write
from benchmarks.measure import run
from fedpipe.data.partition.settings import Partition
from fedpipe.federated.strategies import STRATEGIES

EXAMPLES = 10  # a client; drawn from MNIST with replacement
REPEATS = 3  # of all cases in turn


@dataclass(frozen=True)
class Case:
    """A population, and how many of its clients are drawn for a round."""

    clients: int
    cohort: int
    rounds: int  # of a run; the first is not among those that are averaged


CASES = (
    Case(100, 100, 20),
    Case(1_000, 100, 20),
    Case(10_000, 100, 20),
    Case(100_000, 100, 20),
    Case(100_000, 1_000, 10),
    Case(100_000, 10_000, 4),
)
CASES_WITH_STATE = CASES[:3]  # a client's state is 0.8 MB, of which it keeps two


def measure(scratch: Path, strategy: str) -> pd.DataFrame:
    """Return a row for each case: what dividing the examples and DVC take, then the round, then the memory.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    cases = CASES_WITH_STATE if STRATEGIES[strategy].has_client_state else CASES
    populations = {clients: _partition(clients, scratch) for clients in dict.fromkeys(case.clients for case in cases)}
    reports: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(REPEATS):
        for case in cases:
            sizes = "--cohort", str(case.cohort), "--rounds", str(case.rounds)
            folder = str((scratch / str(case.clients)).resolve())
            reports[case].append(run("benchmarks.scale_runner", folder, *sizes, "--strategy", strategy))
    return with_ratios(pd.DataFrame([populations[case.clients] | summary(case, reports[case]) for case in cases]))


def _partition(clients: int, scratch: Path) -> dict[str, Any]:
    """Divide MNIST among the clients; return what it took."""
    train, test = load_mnist()
    folder = scratch / str(clients)
    start = time.perf_counter()
    assignment = Partition(clients=clients, examples_per_client=EXAMPLES).assign(train.labels.numpy(), seed=0)
    write(folder, train, test, assignment)
    partition_s = time.perf_counter() - start
    files = sum(1 for _ in (folder / "shards").iterdir())
    return {"clients": clients, "files": files, "partition_s": round(partition_s, 1), "dvc_s": round(_dvc(folder), 1)}


def _dvc(folder: Path) -> float:
    """Return the seconds that `dvc add` takes to hash and keep the shards, in a repository of its own."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    start = time.perf_counter()
    subprocess.run(["dvc", "add", "-q", "shards"], cwd=folder, check=True)
    return time.perf_counter() - start


def summary(case: Case, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the runs of a case come to.

    Raises:
        RuntimeError: a round trained fewer clients than it should have, or more.
    """
    for report in reports:
        if report["examples"] != case.cohort * EXAMPLES:
            raise RuntimeError(f"{case}: {report['examples']} examples a round")
    round_s = statistics.median(seconds for report in reports for seconds in report["rounds_s"])
    return {
        "cohort": case.cohort,
        "first_round_s": min(report["first_round_s"] for report in reports),
        "round_s": round(round_s, 4),
        "clients_per_s": round(case.cohort / round_s),
        "peak_mb": statistics.median(report["peak_mb"] for report in reports),
    }


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add each row's time for a client and its memory, relative to the first row's."""
    client_s = table["round_s"] / table["cohort"]
    return table.assign(
        time_ratio=(client_s / client_s.iloc[0]).round(2),
        memory_ratio=(table["peak_mb"] / table["peak_mb"].iloc[0]).round(2),
    )


def as_markdown(table: pd.DataFrame, strategy: str) -> str:
    """Return the table for a README, at most 100 columns wide."""
    lines = [
        f"{strategy}, 2NN, clients of {EXAMPLES} examples each, B=10, one local epoch, engine processes.",
        "The ratio is that of a round's time for each of its clients to the first row's.",
        "",
        "| clients | cohort | files | partition | dvc add | round 1 | a round | clients/s | ratio | peak MB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_line(row) for row in table.to_dict("records")]
    return "\n".join(lines) + "\n"


def _line(row: dict[Any, Any]) -> str:
    def cells() -> Iterator[str]:
        yield f"{row['clients']:,}"
        yield f"{row['cohort']:,}"
        yield f"{row['files']:,}"
        yield f"{row['partition_s']:.1f} s"
        yield f"{row['dvc_s']:.1f} s"
        yield f"{row['first_round_s']:.1f} s"
        yield f"{1000 * row['round_s']:,.0f} ms"
        yield f"{row['clients_per_s']:,}"
        yield f"{row['time_ratio']:.2f}"
        yield f"{row['peak_mb']:,.0f}"

    return f"| {' | '.join(cells())} |"
