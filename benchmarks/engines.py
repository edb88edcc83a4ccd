"""fedpipe's engines beside Flower, pfl-research and a hand-written loop: equal workloads, in turn, on one machine."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from rich.progress import track

from benchmarks.data import prepare
from benchmarks.measure import flop_per_example, matrix_rate, run, summary
from benchmarks.workloads import WORKLOADS, Workload
from fedpipe.system.files import replacing

OURS = {
    "fedpipe threads": ("--engine", "threads"),
    "fedpipe processes": ("--engine", "processes"),
    "fedpipe ray": ("--engine", "ray"),
    "fedpipe processes, bfloat16": ("--engine", "processes", "--precision", "bfloat16"),
}
PEERS = {"Flower": "flower", "pfl-research": "pfl_research", "hand-written loop": "hand_loop"}


def measure(workloads: Sequence[str], cores: int, repeats: int, scratch: Path) -> pd.DataFrame:
    """Return a row for each workload and engine.

    Args:
        workloads: their names.
        cores: how many to use.
        repeats: runs of each engine; all engines of a workload run in turn.
        scratch: a folder for data.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
        RuntimeError: an engine failed, or did other work than the workload.
    """
    rates = {dtype: [matrix_rate(dtype, cores)] for dtype in ("float32", "bfloat16")}
    plan = [WORKLOADS[name] for name in workloads for _ in range(repeats)]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for workload in track(plan, description="workloads, and repeats"):
        for engine, report in _each(workload, cores, *prepare(workload, scratch)):
            runs.setdefault((workload.name, engine), []).append(report)
    for dtype, measured in rates.items():
        measured.append(matrix_rate(dtype, cores))
    rows = [_row(WORKLOADS[workload], engine, reports) for (workload, engine), reports in runs.items()]
    table = pd.DataFrame(rows)
    peers = table[table["engine"].isin(PEERS)].groupby("workload")
    table["ratio"] = table["examples_per_s"] / table["workload"].map(peers["examples_per_s"].max())
    table["first_round_ratio"] = table["first_round_s"] / table["workload"].map(peers["first_round_s"].min())
    for dtype, measured in rates.items():
        table[f"{dtype}_gflops"] = max(measured)
    return table.assign(share_of_float32=table["gflops"] / table["float32_gflops"])


def _each(workload: Workload, cores: int, npz: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run each engine once, and yield its name and its report."""
    rounds = "--rounds", str(workload.rounds)
    for engine, options in OURS.items():
        workers = "--workers", str(cores)
        yield engine, run("benchmarks.fedpipe_runner", workload.name, str(folder), *rounds, *workers, *options)
    for engine, module in PEERS.items():
        yield engine, run(f"benchmarks.peers.{module}", workload.name, str(npz), *rounds, "--threads", str(cores))


def _row(workload: Workload, engine: str, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return an engine's row from its runs.

    Raises:
        RuntimeError: a run did other work than the workload.
    """
    values = summary(engine, workload, reports)
    rate = values["examples_per_s"] * flop_per_example(workload.model, workload.batch_size)
    return {"workload": workload.name, "engine": engine, **values, "gflops": round(rate / 1e9, 1)}


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README, at most 100 columns wide."""
    lines = [
        "| workload | engine | examples/s | to best peer | first round | peak MB | of float32 rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['workload']} | {row['engine']} | {row['examples_per_s']:,} | {row['ratio']:.2f} "
        f"| {row['first_round_s']:.1f} s | {row['peak_mb']:,.0f} | {row['share_of_float32']:.0%} |"
        for row in table.to_dict("records")
    ]
    first = table.iloc[0]
    lines += [
        "",
        f"torch's matrix product, both cores: float32 {first['float32_gflops']:.0f} GFLOP/s, "
        f"bfloat16 {first['bfloat16_gflops']:.0f} GFLOP/s.",
    ]
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw the examples a second of every engine, with a panel for each workload."""
    import altair as alt

    order = [*OURS, *PEERS]
    bars = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("examples_per_s:Q", title="examples a second, steady rounds", axis=alt.Axis(tickCount=5)),
            y=alt.Y("engine:N", sort=order, title=None),
            color=alt.Color("engine:N", sort=order, legend=None, scale=alt.Scale(domain=order, range=COLOURS)),
        )
    )
    text = bars.mark_text(align="left", dx=3).encode(
        text=alt.Text("examples_per_s:Q", format=",.0f"), color=alt.value("black")
    )
    chart = (bars + text).properties(width=420, height=130)
    rows = alt.Row("workload:N", sort=list(dict.fromkeys(table["workload"])), title=None)
    panels = chart.facet(row=rows, spacing=8).resolve_scale(x="independent")
    picture = BytesIO()
    panels.properties(title="The same workloads, in turn, on one machine").save(picture, "png", scale_factor=1.5)
    with replacing(path) as new:
        Image.open(picture).convert("RGB").quantize(64).save(new, optimize=True)  # git keeps every version


COLOURS = ["#9ecae1", "#2171b5", "#6baed6", "#08306b", "#fdae6b", "#fd8d3c", "#969696"]
