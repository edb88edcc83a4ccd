"""fedpipe beside its peers and beside itself. Each command prints a table and writes it to benchmarks/results."""

import datetime
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.workloads import WORKLOADS
from fedpipe.system import console
from fedpipe.system.errors import UserError
from fedpipe.system.files import write_text
from fedpipe.system.machine import cores
from fedpipe.system.provenance import provenance

RESULTS = Path("benchmarks/results")
app = typer.Typer(help=__doc__, no_args_is_help=False, add_completion=False)

Workloads = Annotated[
    list[str] | None,
    typer.Option("--workload", "--work", help=f"{', '.join(WORKLOADS)}; may be repeated. All if not given."),
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    workloads: Workloads = None,
    repeats: Annotated[int, typer.Option(help="Runs of each engine.")] = 2,
) -> None:
    """Compare fedpipe's engines with its peers, if no command is given: about 20 minutes on two cores."""
    if context.invoked_subcommand:
        return
    from benchmarks import engines

    with tempfile.TemporaryDirectory() as scratch:
        table = engines.measure(_chosen(workloads, WORKLOADS), cores(), repeats, Path(scratch))
    _write("engines", table, engines.as_markdown(table))
    engines.draw(table, RESULTS / "engines.png")


@app.command()
def against(
    checkout: Annotated[Path, typer.Argument(help="Folder of the other checkout, such as a clone of an older commit.")],
    workloads: Workloads = None,
    engines: Annotated[
        list[str] | None, typer.Option("--engine", help="Engine, as in the table; may be repeated. All if not given.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each engine in each checkout.")] = 3,
) -> None:
    """Compare this checkout with another one, in turn: speed, start and memory. Needs no peer."""
    from benchmarks import against

    with tempfile.TemporaryDirectory() as scratch:
        table = against.measure(
            checkout, _chosen(workloads, WORKLOADS), _chosen(engines, against.ENGINES), cores(), repeats, Path(scratch)
        )
    _write("against", table, against.as_markdown(table))


@app.command()
def scale(
    strategy: Annotated[str, typer.Option(help="With scaffold or feddyn, clients keep state on disk.")] = "fedavg",
) -> None:
    """Measure populations of 100 to 100,000 clients and cohorts of 100 to 10,000: time, memory, partitioning."""
    from benchmarks import scale

    with tempfile.TemporaryDirectory(dir="data", prefix=".benchmark-") as scratch:
        table = scale.measure(Path(scratch), strategy)
    _write("scale" if strategy == "fedavg" else f"scale-{strategy}", table, scale.as_markdown(table, strategy))


@app.command()
def profile() -> None:
    """Show where the time of a client goes, for each workload. Needs no peer."""
    from benchmarks import profile

    table = profile.measure()
    _write("profile", table, profile.as_markdown(table))


@app.command()
def secure(
    most: Annotated[int, typer.Option(help="Clients of the largest cohort; 1,000 take five minutes.")] = 1000,
) -> None:
    """Measure what secure aggregation costs a client and the server in time and bytes. Needs no peer, nor data."""
    from benchmarks import secure

    table = secure.measure(most)
    _write("secure", table, secure.as_markdown(table))


@app.command()
def pieces(repeats: Annotated[int, typer.Option(help="Runs of each piece.")] = 3) -> None:
    """Time a round with each aggregation, attack, compression and protection beside the plain mean. Needs no peer."""
    from benchmarks import pieces

    with tempfile.TemporaryDirectory() as scratch:
        table = pieces.measure(repeats, Path(scratch))
    _write("pieces", table, pieces.as_markdown(table))


@app.command()
def audit() -> None:
    """Attack private trainings, and compare what an attacker finds with the epsilon that was promised."""
    from benchmarks import audit

    with tempfile.TemporaryDirectory() as scratch:
        table = audit.measure(Path(scratch))
    _write("audit", table, audit.as_markdown(table))


@app.command()
def whole() -> None:
    """Time `dvc repro` of everything beside the reference's two programs."""
    from benchmarks import whole

    table = whole.measure()
    _write("whole", table, whole.as_markdown(table))


def _chosen(names: list[str] | None, known: Collection[str]) -> list[str]:
    """Return the names that were given, or all if none were."""
    for name in names or ():
        if name not in known:
            raise UserError(f"{name}: known are {'; '.join(known)}")
    return names or list(known)


def _write(name: str, table: pd.DataFrame, markdown: str) -> None:
    """Print a table, and write it to the results with the date and the machine."""
    import torch

    machine = provenance(torch.device("cpu"))
    head = f"{datetime.date.today()}; {cores()} cores, {machine['cpu']}; torch {machine['torch']}\n\n"
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False))
    write_text(RESULTS / f"{name}.md", head + markdown)
    console.say(head + markdown)


if __name__ == "__main__":
    console.run(app)
