"""fedpipe's engines beside Flower, pfl-research and a hand-written loop: the same works, in turn, on one machine."""

import statistics
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from rich.progress import track

from benchmarks.data import prepare
from benchmarks.measure import flop_per_example, matrix_rate, run
from benchmarks.works import WORKS, Work
from fedpipe.files import replacing

ROUNDS = {"seed": 4, "paper": 8, "mlp": 25, "tiny": 25, "big": 4}  # so that each takes seconds, not minutes
OURS = {
    "fedpipe threads": ("--engine", "threads"),
    "fedpipe processes": ("--engine", "processes"),
    "fedpipe ray": ("--engine", "ray"),
    "fedpipe processes, bfloat16": ("--engine", "processes", "--precision", "bfloat16"),
}
PEERS = {"Flower": "flower", "pfl-research": "pfl_research", "hand-written loop": "hand_loop"}


def measure(works: Sequence[str], cores: int, repeats: int, scratch: Path) -> pd.DataFrame:
    """A row for each work and engine; each is run `repeats` times, all engines of a work in turn."""
    rates = {dtype: [matrix_rate(dtype, cores)] for dtype in ("float32", "bfloat16")}
    plan = [(WORKS[name], repeat) for name in works for repeat in range(repeats)]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for work, _ in track(plan, description="works, and repeats"):
        for engine, result in _each(work, cores, *prepare(work, scratch)):
            runs.setdefault((work.name, engine), []).append(result)
    for dtype, measured in rates.items():
        measured.append(matrix_rate(dtype, cores))
    rows = [_row(WORKS[work], engine, results) for (work, engine), results in runs.items()]
    table = pd.DataFrame(rows)
    peers = table[table["engine"].isin(PEERS)].groupby("work")
    table["ratio"] = table["examples_per_s"] / table["work"].map(peers["examples_per_s"].max())
    table["first_round_ratio"] = table["first_round_s"] / table["work"].map(peers["first_round_s"].min())
    for dtype, measured in rates.items():
        table[f"{dtype}_gflops"] = max(measured)
    return table.assign(share_of_float32=table["gflops"] / table["float32_gflops"])


def _each(work: Work, cores: int, npz: Path, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rounds = "--rounds", str(ROUNDS[work.name])
    for engine, options in OURS.items():
        workers = "--workers", str(cores)
        yield engine, run("benchmarks.fedpipe_runner", work.name, str(folder), *rounds, *workers, *options)
    for engine, module in PEERS.items():
        yield engine, run(f"benchmarks.peers.{module}", work.name, str(npz), *rounds, "--threads", str(cores))


def _row(work: Work, engine: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs have in common, and the check that the work was the same: as many examples and steps a round."""
    for result in results:
        expected = work.examples_per_round, work.cohort * -(-work.per_client // work.batch_size)
        if (result["examples"], result["steps"]) != expected:
            raise RuntimeError(f"{engine}, {work.name}: {result['examples']} examples, {result['steps']} steps a round")
    rounds = [seconds for result in results for seconds in result["rounds_s"]]
    rate = work.examples_per_round / statistics.median(rounds)
    return {
        "work": work.name,
        "engine": engine,
        "examples_per_s": round(rate),
        "fastest_round": round(work.examples_per_round / min(rounds)),
        "first_round_s": min(result["first_round_s"] for result in results),
        "peak_mb": max(result["peak_mb"] for result in results),
        "accuracy": round(statistics.mean(result["accuracy"] for result in results), 4),
        "gflops": round(rate * flop_per_example(work.model, work.batch_size) / 1e9, 1),
    }


def as_markdown(table: pd.DataFrame) -> str:
    """At most 100 columns wide."""
    lines = [
        "| work | engine | examples/s | to best peer | first round | peak MB | of float32 rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['work']} | {row['engine']} | {row['examples_per_s']:,} | {row['ratio']:.2f} "
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
    """Examples/s of every engine, a panel a work."""
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
    works = list(dict.fromkeys(table["work"]))
    panels = chart.facet(row=alt.Row("work:N", sort=works, title=None), spacing=8).resolve_scale(x="independent")
    picture = BytesIO()
    panels.properties(title="The same work, in turn, on one machine").save(picture, "png", scale_factor=1.5)
    with replacing(path) as new:
        Image.open(picture).convert("RGB").quantize(64).save(new, optimize=True)  # git keeps every version


COLOURS = ["#9ecae1", "#2171b5", "#6baed6", "#08306b", "#fdae6b", "#fd8d3c", "#969696"]
