"""The program `fedpipe`: what helps around `dvc`, for people at a terminal. `fedpipe --help` lists it.

Each command imports what it needs, so that help and mistakes on the command line answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedpipe.system import console

app = typer.Typer(
    help="Federated learning as a reproducible pipeline. `dvc repro` runs it; these commands help around it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

PARAMS_HEAD = """\
# Every parameter of the pipeline. Change one here, or for one run only: dvc exp run -S federated.rounds=10
# `fedpipe check` tells whether the file makes sense; so does the first stage of `dvc repro`.
"""


@app.command()
def check(path: Annotated[Path, typer.Argument(help="The file to check.")] = Path("params.yaml")) -> None:
    """Tell whether params.yaml makes sense, with a line for each mistake.

    The exit status is 1 if there is a mistake.

    Examples:

        fedpipe check

        fedpipe check other/params.yaml
    """
    from fedpipe.pipeline import check

    check(path)
    typer.echo(f"{path}: valid")


@app.command()
def params() -> None:
    """Print a params.yaml with every parameter, its description and its default.

    Example:

        fedpipe params > params.yaml
    """
    from fedpipe.config.template import as_yaml
    from fedpipe.pipeline import Pipeline

    typer.echo(f"{PARAMS_HEAD}\n{as_yaml(Pipeline())}")


@app.command()
def verify(revision: Annotated[str, typer.Argument(help="The git revision to compare with.")] = "HEAD") -> None:
    """Compare the results that this machine made with those committed in git.

    Results are held to equality on a machine of the CPU type and torch version that the committed results name, and
    elsewhere to a small tolerance. The exit status is 1 if they differ, or if the pipeline did not run here.

    Examples:

        dvc repro && fedpipe verify

        fedpipe verify main
    """
    from fedpipe.results import verify as verification

    verdict = verification.verify(revision)
    for line in verdict.made_elsewhere:
        typer.echo(line)
    if verdict.differences:
        print(*verdict.differences, sep="\n", file=sys.stderr)
        raise typer.Exit(1)
    if verdict.exact:
        typer.echo(f"equal to {revision}, to the last bit of every metric (same CPU type, same torch)")
    else:
        typer.echo(
            f"agrees with {revision}, made on another CPU type or torch version, or on another device: accuracies "
            f"within {verification.ACCURACY_TOLERANCE:.1%}, losses within {verification.LOSS_TOLERANCE}"
        )


def main() -> None:
    """Run the program `fedpipe`, and exit."""
    console.run(app)


if __name__ == "__main__":
    main()
