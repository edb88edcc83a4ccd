"""This checkout beside another one, such as the commit before a change: the same workloads, in turn, on one machine.

Each runs its own `benchmarks.fedpipe_runner` by its own code, on the same data, with the same interpreter.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from benchmarks.data import prepare
from benchmarks.measure import run, summary
from benchmarks.workloads import WORKLOADS, Workload
from fedpipe.system.errors import UserError

HERE = Path(__file__).resolve().parent.parent
RUNNER = "benchmarks.fedpipe_runner"
ENGINES = {
    "threads": ("--engine", "threads"),
    "processes": ("--engine", "processes"),
    "ray": ("--engine", "ray"),
    "ray, 2 nodes": ("--engine", "ray", "--nodes", "2"),
}
BASIS = "processes"  # the engine that the others are compared with
NAN = float("nan")  # of what was not measured


def measure(
    other: Path, workloads: Sequence[str], engines: Sequence[str], cores: int, repeats: int, scratch: Path
) -> pd.DataFrame:
    """Return a row for each workload and engine, before (the other checkout) and after (this one).

    Args:
        other: the other checkout. Engines that its runner has no options for are measured here alone.
        workloads: their names.
        engines: keys of ENGINES.
        cores: workers of each engine.
        repeats: runs of each engine in each checkout, which take turns.
        scratch: a folder for data.

    Raises:
        UserError: there is no such checkout, or the pipeline has not downloaded MNIST yet.
        RuntimeError: a run failed, or did other work than the workload.
    """
    checkouts = {"before": other.resolve(), "after": HERE}
    options = {when: _options(checkout) for when, checkout in checkouts.items()}
    plan = [
        (WORKLOADS[workload], engine, when)
        for workload in workloads
        for _ in range(repeats)
        for engine in engines
        for when in checkouts
        if all(option in options[when] for option in ENGINES[engine] if option.startswith("--"))
    ]
    reports: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for workload, engine, when in track(plan, description="runs"):
        _, folder = prepare(workload, scratch)
        sizes = "--rounds", str(workload.rounds), "--workers", str(cores)
        report = run(RUNNER, workload.name, str(folder), *sizes, *ENGINES[engine], checkout=checkouts[when])
        reports.setdefault((workload.name, engine), {}).setdefault(when, []).append(report)
    rows = [_row(WORKLOADS[workload], engine, runs) for (workload, engine), runs in reports.items()]
    return with_ratios(rows).assign(**{f"commit_{when}": _commit(checkout) for when, checkout in checkouts.items()})


def _options(checkout: Path) -> str:
    """Return what the runner of a checkout says of its command line."""
    if not (checkout / Path(*RUNNER.split("."))).with_suffix(".py").is_file():
        raise UserError(f"{checkout}: no checkout of fedpipe: {RUNNER} is not there")
    command = [sys.executable, "-m", RUNNER, "--help"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout


def _commit(checkout: Path) -> str:
    """Return the checkout's commit, and whether files of it were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    shown = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    return shown.stdout.strip() or "no commit"


def _row(workload: Workload, engine: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    summaries = {when: summary(f"{engine}, {when}", workload, reports) for when, reports in runs.items()}
    values = {f"{key}_{when}": value for when, values in summaries.items() for key, value in values.items()}
    return {"workload": workload.name, "engine": engine, **values}


def with_ratios(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows, each with its speed relative to before and, before and after, to that of the basis."""
    basis = {row["workload"]: row for row in rows if row["engine"] == BASIS}

    def speed(row: dict[str, Any], when: str) -> float:
        return row.get(f"examples_per_s_{when}", NAN)

    def of_basis(row: dict[str, Any], when: str) -> float:
        return speed(row, when) / speed(basis.get(row["workload"], {}), when)

    return pd.DataFrame(
        [
            row
            | {"ratio": speed(row, "after") / speed(row, "before")}
            | {f"of_{BASIS}_{when}": of_basis(row, when) for when in ("before", "after")}
            for row in rows
        ]
    )


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README, at most 100 columns wide."""
    first = table.iloc[0]
    lines = [
        f"Before → after: {first['commit_before']} → {first['commit_after']}. The first round ends after the process's",
        "start, imports included; memory is that of all processes, shared pages counted once.",
        "",
        f"| workload | engine | examples/s | ratio | first round, s | peak MB | of {BASIS} |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in table.to_dict("records")]
    return "\n".join(lines) + "\n"


def _cells(row: dict[Any, Any]) -> Iterator[str]:
    def both(name: str, form: str) -> str:
        before, after = (row.get(f"{name}_{when}", NAN) for when in ("before", "after"))
        return f"{_shown(before, form)} → {_shown(after, form)}"

    yield row["workload"]
    yield row["engine"]
    yield both("examples_per_s", ",.0f")
    yield _shown(row["ratio"], ".2f")
    yield both("first_round_s", ".1f")
    yield both("peak_mb", ",.0f")
    yield both(f"of_{BASIS}", ".2f")


def _shown(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)
