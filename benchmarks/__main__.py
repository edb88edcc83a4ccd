"""fedpipe beside its peers. Each command prints a table and writes it to benchmarks/results."""

import datetime
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.works import WORKS
from fedpipe import console
from fedpipe.files import write_text
from fedpipe.machine import cores
from fedpipe.provenance import provenance

RESULTS = Path("benchmarks/results")
app = typer.Typer(help=__doc__, no_args_is_help=False, add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    work: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(WORKS)}; may be repeated. All if not given.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each engine.")] = 2,
) -> None:
    """The engines' table, if no other command is given: about 20 minutes on two cores."""
    if context.invoked_subcommand:
        return
    from benchmarks import engines

    with tempfile.TemporaryDirectory() as scratch:
        table = engines.measure(work or list(WORKS), cores(), repeats, Path(scratch))
    _write("engines", table, engines.as_markdown(table))
    engines.draw(table, RESULTS / "engines.png")


@app.command()
def scale(
    strategy: Annotated[str, typer.Option(help="With scaffold or feddyn, clients keep state on disk.")] = "fedavg",
) -> None:
    """100 to 100,000 clients with the same examples a round: time a round, memory, partitioning."""
    from benchmarks import scale

    with tempfile.TemporaryDirectory(dir="data", prefix=".benchmark-") as scratch:
        table = scale.measure(Path(scratch), strategy)
    _write("scale" if strategy == "fedavg" else f"scale-{strategy}", table, scale.as_markdown(table, strategy))


@app.command()
def strategies() -> None:
    """Each strategy on each partition, learning rates tuned for each: 40 minutes on two cores. Needs no peer."""
    from benchmarks import strategies

    table = strategies.measure()
    _write("strategies", table, strategies.as_markdown(table))


@app.command()
def rounds() -> None:
    """Rounds to the paper's targets: about 20 minutes on two cores. Needs no peer."""
    from benchmarks import rounds

    table = rounds.measure()
    _write("rounds", table, rounds.as_markdown(table))


@app.command()
def profile() -> None:
    """Where the time of one client goes, for each work."""
    from benchmarks import profile

    table = profile.measure()
    _write("profile", table, profile.as_markdown(table))


@app.command()
def whole() -> None:
    """`dvc repro` of everything beside the reference's two programs."""
    from benchmarks import whole

    table = whole.measure()
    _write("whole", table, whole.as_markdown(table))


def _write(name: str, table, markdown: str) -> None:
    import torch

    machine = provenance(torch.device("cpu"))
    head = f"{datetime.date.today()}; {cores()} cores, {machine['cpu']}; torch {machine['torch']}\n\n"
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False))
    write_text(RESULTS / f"{name}.md", head + markdown)
    console.say(head + markdown)


if __name__ == "__main__":
    console.run(app)
