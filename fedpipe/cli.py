"""For people: what `dvc` does not do. `fedpipe --help` lists it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedpipe import console
from fedpipe import verify as verification
from fedpipe.check import check as check_params
from fedpipe.params import PARAMS

PLOTS_PAGE = Path("reports/plots-page.html")

app = typer.Typer(
    help="Federated learning as a reproducible pipeline. `dvc repro` runs it; these commands help around it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command()
def check(path: Annotated[Path, typer.Argument(help="The file to check.")] = PARAMS) -> None:
    """Tell whether params.yaml makes sense, a line for each mistake.

    Examples:

        fedpipe check

        fedpipe check other/params.yaml
    """
    check_params(path)
    typer.echo(f"{path}: valid")


@app.command()
def verify(revision: Annotated[str, typer.Argument(help="The git revision to compare with.")] = "HEAD") -> None:
    """Compare the results in this workspace with those committed in git.

    Held to equality on a machine of the CPU type and torch version that the committed results name, else to a small
    tolerance. Exit status 1 if they differ.

    Examples:

        dvc repro && fedpipe verify

        fedpipe verify main
    """
    verdict = verification.verify(revision)
    if verdict.differences:
        print(*verdict.differences, sep="\n", file=sys.stderr)
        raise typer.Exit(1)
    if verdict.exact:
        typer.echo(f"equal to {revision}, to the last bit of every metric (same CPU type, same torch)")
    else:
        typer.echo(
            f"agrees with {revision}, made on another CPU type or torch: accuracies within "
            f"{verification.ACCURACY_TOLERANCE:.1%}, losses within {verification.LOSS_TOLERANCE}"
        )


@app.command()
def plots_page(path: Annotated[Path, typer.Argument(help="Where .dvc/config expects it.")] = PLOTS_PAGE) -> None:
    """Write the page that `dvc plots` fills, with its scripts inside, so that it draws with no network.

    `dvc repro` writes it too; this is for looking at committed plots in a clone where nothing has run yet.
    """
    from fedpipe.figures import write_plots_page  # here, because it takes a second that the others need not pay

    write_plots_page(path)
    typer.echo(f"{path}: written")


def main() -> None:
    """The program `fedpipe`."""
    console.run(app)


if __name__ == "__main__":
    main()
