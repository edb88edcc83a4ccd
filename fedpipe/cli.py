"""The program `fedpipe`: what helps around `dvc`, for people at a terminal. `fedpipe --help` lists it.

Each command imports what it needs, so that help and mistakes on the command line answer at once.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpipe.system import console

if TYPE_CHECKING:
    from rich.console import Console

    from fedpipe.reset import Changes

app = typer.Typer(
    help="Federated learning as a reproducible pipeline. `dvc repro` runs it; these commands help around it.\n\n"
    "What was asked for goes to standard output, everything else that is said to standard error.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

WIDEST = 100  # columns of tables

PARAMS_HEAD = """\
# Every parameter of the pipeline. Change one here, or for one run only: dvc exp run -S federated.rounds=10
# `fedpipe check` tells whether the file makes sense; so does the first stage of `dvc repro`. An empty value is null.
"""

MARKDOWN_HEAD = """\
# Parameters

Every parameter of [params.yaml](../params.yaml), with its default, the values it takes, and its meaning. An empty value
in the file is `null`. `fedpipe params --markdown` prints this page.
"""


def _say(line: str) -> None:
    """Print what was not asked for, but helps."""
    typer.echo(line, err=True)


def _terminal() -> "Console":
    """Return what prints tables, as wide as the terminal but no wider than people read."""
    from rich.console import Console

    terminal = Console(highlight=False)
    terminal.width = min(terminal.width, WIDEST) if terminal.is_terminal else WIDEST
    return terminal


def _print_version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import version

        typer.echo(f"fedpipe {version('fedpipe')}, Python {platform.python_version()}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the versions of fedpipe, Python and torch."
        ),
    ] = False,
) -> None:
    """Take the options that come before a command. The program's help is `app`'s."""


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
def params(
    name: Annotated[str, typer.Argument(help="A block or a parameter; all of them if left out.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
) -> None:
    """Print every parameter, what it means, which values it takes, and its default, as a params.yaml.

    Examples:

        fedpipe params federated.local

        fedpipe params federated.rounds

        fedpipe params > params.yaml

        fedpipe params --markdown > docs/parameters.md
    """
    from fedpipe.config.template import as_markdown, as_yaml
    from fedpipe.pipeline import Pipeline

    text = (as_markdown if markdown else as_yaml)(Pipeline(), name)
    head = MARKDOWN_HEAD if markdown else PARAMS_HEAD
    typer.echo(text if name else f"{head}\n{text}")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Where the clients' shards are.")] = Path("data/shards"),
    all: Annotated[bool, typer.Option("--all", help="Show every client of a large population.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every client.")] = False,
) -> None:
    """Show what each client holds: how many examples, and of which labels.

    Of more than 20 clients it shows 20, evenly spaced. A block's height is the number of a label's examples beside that
    of the client's most frequent label. The figures below the table tell how much the clients differ.

    Examples:

        fedpipe inspect

        fedpipe inspect --all | less

        fedpipe inspect --json > clients.json
    """
    from fedpipe.results import population

    found = population.read(folder)
    if as_json:
        _print_json(found.as_json())
        return
    terminal = _terminal()
    terminal.print(found.as_table(terminal.width, all=all))
    if not all and len(found.examples) > population.SHOWN:
        _say(f"{population.SHOWN} of the clients, evenly spaced; `fedpipe inspect --all` shows every one")


@app.command()
def privacy(
    path: Annotated[Path, typer.Argument(help="The file of parameters.")] = Path("params.yaml"),
    rounds: Annotated[
        int | None,
        typer.Option(help="Plan so many rounds in place of federated.rounds.", min=1, show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what training would cost in privacy, and how much noise it would take. Nothing runs.

    Epsilon is told by two accountants, after some rounds and after all of them: by Rényi divergences (RDP), and by
    privacy loss distributions (PLD), which give the smaller one. The file must have a mechanism of privacy.

    Examples:

        fedpipe privacy

        fedpipe privacy --rounds 500

        fedpipe privacy private.yaml --json > cost.json
    """
    from fedpipe import cost
    from fedpipe.config.file import parameters_from
    from fedpipe.pipeline import check

    with parameters_from(path):
        found = cost.of(check(path), rounds)
    if as_json:
        _print_json(found.as_json())
    else:
        _terminal().print(found.as_table())


@app.command()
def audit(
    canaries: Annotated[
        float, typer.Option(help="Which part of the clients are canaries; with 1, the strongest attack.", min=0, max=1)
    ] = 1.0,
    guesses: Annotated[float, typer.Option(help="Of which part of the canaries to guess.", min=0, max=1)] = 0.5,
    save: Annotated[
        bool, typer.Option("--save", help="Write what it finds into reports/audit.json, for the page of the run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack a training, to see whether it keeps its promise of privacy.

    It trains with the parameters of params.yaml and the data that the pipeline has made. Canaries take the place of
    clients: a coin decides for each whether it takes part, and the attacker guesses the coins from the model. How many
    guesses are right proves that epsilon is no smaller than a lower bound.

    Examples:

        fedpipe audit

        fedpipe audit --canaries 0.5 --json

        fedpipe audit --save && dvc repro report
    """
    from dataclasses import asdict

    from fedpipe.audit import attack
    from fedpipe.config.file import parameters_from, read
    from fedpipe.experiment import Experiment, FederatedData
    from fedpipe.results.run import AUDIT, input_of
    from fedpipe.results.source import Workspace
    from fedpipe.system.errors import UserError
    from fedpipe.system.files import write_json

    trained = input_of(Workspace(), "federated")
    if save and trained is None:
        raise UserError("--save: no run is here whose page could show it; `dvc repro` makes one")

    with parameters_from():
        data = FederatedData(dataset=Path("data/dataset"), clients=Path("data/shards"))
        found = attack(read(Experiment, only_its_fields=True), data, canaries=canaries, guesses=guesses)
    if save:
        write_json(AUDIT, {"of": trained, **asdict(found)})
    if as_json:
        _print_json(asdict(found))
    else:
        for line in found.lines():
            typer.echo(line)


@app.command()
def report(
    revision: Annotated[
        str, typer.Argument(help="A commit, a branch or an experiment; the project's folder if left out.")
    ] = "workspace",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; report-REVISION.html if left out.")
    ] = None,
    repeats: Annotated[
        bool, typer.Option("--repeats/--no-repeats", help="Look for experiments that differ in their seed alone.")
    ] = True,
) -> None:
    """Write the page of a run, one file to send around: question and answer, figures, and what it does not show.

    `dvc repro` writes that of the project's folder into reports/report.html. This command writes that of any commit,
    and where DVC has experiments that differ from it in their seed alone, with means and intervals over them. Nothing
    runs.

    Examples:

        fedpipe report -o page.html

        fedpipe report main -o main.html

        fedpipe report kinky-swab --no-repeats
    """
    from fedpipe.pages import of_run

    path = output or Path(f"report-{revision.replace('/', '-')}.html")
    for line in of_run(revision, path, repeats=repeats):
        _say(line)
    _say(f"{path}: written")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="A commit, a branch, an experiment, or workspace.", metavar="REV_A")],
    after: Annotated[str, typer.Argument(help="Another one.", metavar="REV_B")] = "workspace",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a page with figures, and print nothing.")
    ] = None,
) -> None:
    """Put two runs side by side: parameters that differ, metrics, curves, and which clients gained and lost.

    It reads what git and DVC's experiments hold. Nothing runs.

    Examples:

        fedpipe compare main

        fedpipe compare main kinky-swab -o page.html
    """
    from fedpipe.results.changes import page, tables
    from fedpipe.results.run import read_run
    from fedpipe.results.source import source_of
    from fedpipe.system.errors import UserError
    from fedpipe.system.files import write_text

    if before == after:
        raise UserError(f"{before}: named twice; a run beside itself shows nothing")
    runs = read_run(source_of(before)), read_run(source_of(after))
    if output:
        write_text(output, page(*runs))
        _say(f"{output}: written")
        return
    terminal = _terminal()
    for table in tables(*runs):
        terminal.print(table.as_rich())


class FigureFormat(StrEnum):
    """The formats of figures."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Of the figure; all names are printed if left out.")] = "",
    format: Annotated[FigureFormat, typer.Option("--format", "-f", help="Of the file.")] = FigureFormat.PDF,
    width: Annotated[str, typer.Option("--width", "-w", help="Inches, centimetres or millimetres.")] = "3.3in",
    revision: Annotated[
        str, typer.Option("--rev", help="A commit, a branch or an experiment; the project's folder if left out.")
    ] = "workspace",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; NAME.FORMAT if left out.")
    ] = None,
) -> None:
    """Draw a figure for a paper: in the size that it prints in, with colours that everybody tells apart.

    A column of two is some 3.3 inches wide, a page 7. Figures are those of the run's page and of studies.

    Examples:

        fedpipe figure

        fedpipe figure learning_curves

        fedpipe figure clients --format svg --width 84mm --rev main

        fedpipe figure privacy/1 --width 7in -o privacy.pdf
    """
    from fedpipe.pages import draw_figure, figures

    if not name:
        for known, title in figures(revision):
            typer.echo(f"{known:28} {title}")
        return
    path = output or Path(f"{name.replace('/', '-')}.{format.value}")
    draw_figure(name, path, format.value, width, revision)
    _say(f"{path}: written")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look whether everything is here that the pipeline needs, and say what would help where something is not.

    The exit status is 1 if something prevents `dvc repro`.

    Examples:

        fedpipe doctor

        fedpipe doctor --json
    """
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from fedpipe.doctor import findings

    found = list(findings())
    if as_json:
        _print_json([asdict(finding) for finding in found])
    else:
        table = Table.grid(padding=(0, 2, 0, 0))
        for finding in found:
            colour = {"ok": "green", "warning": "yellow", "problem": "red"}[finding.status]
            table.add_row(Text(finding.status, colour), finding.name, Text(finding.found))
            if finding.help:
                table.add_row("", "", Text(f"help: {finding.help}"))
        _terminal().print(table)
    if any(finding.status == "problem" for finding in found):
        raise typer.Exit(1)


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Go back to the committed parameters, results, data and models after an experiment, also a failed one.

    It shows what will be lost, and asks. Changes of code stay, and so do files that git does not track, except in
    folders that DVC restores. It does what `git checkout params.yaml dvc.lock reports data && dvc checkout` does.

    Examples:

        dvc exp run -S federated.rounds=10; fedpipe reset

        fedpipe reset --yes
    """
    from fedpipe.reset import changes, reset
    from fedpipe.system.errors import UserError

    found = changes()
    if found.lost:
        _tell_what_is_lost(found)
        if not yes:
            typer.echo("Go back? [y/N] ", nl=False, err=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise UserError("nothing was changed; `fedpipe reset --yes` does not ask")
    elif not found.missing:
        _say(f"nothing to do: this is what is committed ({found.commit})")
        return
    missing = reset(found)
    if missing:
        _say(f"DVC's cache lacks {', '.join(missing)}; `dvc repro` makes what is missing")
    _say(f"{'all else is' if missing else 'this is'} again what is committed ({found.commit})")


def _tell_what_is_lost(found: "Changes") -> None:
    _say(f"This differs from what is committed ({found.commit}), and will be lost:")
    for line in found.parameters:
        _say(f"  {line}")
    for file in found.files:
        _say(f"  {file}")
    for output in found.outputs:
        _say(f"  {output}, which DVC has not recorded")
    if found.unknown:
        _say(f"  whatever DVC has not recorded; it cannot tell: {found.unknown}")
    if found.experiment:
        _say(
            f"DVC saved the experiment as {found.experiment}: `dvc exp show` lists it, and "
            f"`dvc exp apply {found.experiment}` brings it back."
        )
    else:
        _say("DVC has saved no experiment with these parameters and results.")


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="The project's folder.")] = Path(),
    once: Annotated[bool, typer.Option("--once", help="Tell what runs now, and end.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Serve pages for a browser instead.")] = False,
    host: Annotated[str, typer.Option("--host", help="The address at which --html serves.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Likewise; 0 takes a free one.", min=0, max=65535)] = 8000,
) -> None:
    """Show the training of a stage while it runs: its curve, its accuracy, the time left, and refused clients.

    The stage may run in another terminal, or have been started over ssh: this reads the files that stages write each
    second. It waits for a stage, follows from one to the next, and ends with Ctrl-C. Where output is no terminal, it
    prints a line for each change. Stages that run in copies of the project, as with `dvc exp run --temp`, are seen in
    the copy's folder alone, below .dvc/tmp/exps; runs of studies are not shown.

    With --html, the same is a page in a browser, which refreshes, as reports/report.html and studies/NAME/report.html
    do there. Nothing else is served, and by default to this machine alone.

    Examples:

        fedpipe watch

        fedpipe watch --once

        ssh -t machine 'cd project && .venv/bin/fedpipe watch'

        fedpipe watch --html --port 0
    """
    from fedpipe.system.errors import UserError
    from fedpipe.system.lifetime import end_in_order

    if once and html:
        raise UserError("--once: does not go with --html, which serves until it is ended; leave one of them out")
    end_in_order()
    if html:
        from fedpipe.watch.served import serve

        serve(folder, host, port)
    else:
        from fedpipe.watch import terminal

        (terminal.show if once else terminal.watch)(folder)


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
        _say(line)
    if verdict.differences:
        _say("\n".join(verdict.differences))
        raise typer.Exit(1)
    if verdict.exact:
        typer.echo(f"equal to {revision}, to the last bit of every metric (same CPU type, same torch)")
    else:
        typer.echo(
            f"agrees with {revision}, made on another CPU type or torch version, or on another device: accuracies "
            f"within {verification.ACCURACY_TOLERANCE:.1%}, losses within {verification.LOSS_TOLERANCE}"
        )


class TableFormat(StrEnum):
    """The formats of tables."""

    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


class IntervalKind(StrEnum):
    """The ways to make an interval of a mean."""

    T = "t"
    BOOTSTRAP = "bootstrap"


@app.command()
def summary(
    by: Annotated[
        str,
        typer.Option(
            "--by", help="Parameters that tell groups apart, joined by commas; those that differ if left out."
        ),
    ] = "",
    measure: Annotated[str, typer.Option("--measure", help="Metrics, joined by commas.")] = "accuracy",
    baseline: Annotated[
        str, typer.Option("--baseline", help="The row that the others are compared with, seed by seed.")
    ] = "",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Count only experiments with this: PARAMETER=VALUE. May be repeated."),
    ] = None,
    interval: Annotated[
        IntervalKind, typer.Option("--interval", help="How intervals of means are made.")
    ] = IntervalKind.T,
    format: Annotated[TableFormat, typer.Option("--format", help="What to print.")] = TableFormat.MARKDOWN,
    all_branches: Annotated[
        bool, typer.Option("--all-branches", "-a", help="Count every branch and its experiments.")
    ] = False,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", "-A", help="Count every commit and its experiments.")
    ] = False,
) -> None:
    """Show what DVC's experiments came to over seeds: means, intervals, and differences from a baseline.

    Experiments that differ in nothing but their seed are a group. The experiments are those that `dvc exp show` shows:
    of the last commit, unless options tell otherwise. Nothing runs. What is left out is said below the table.

    Examples:

        fedpipe summary --baseline fedavg

        fedpipe summary --by federated.strategy,partition.scheme --measure accuracy,loss

        fedpipe summary --where model.name=2nn --format latex > table.tex
    """
    from fedpipe.studies.summary import overview, read
    from fedpipe.system.errors import UserError

    wanted = dict(one.split("=", 1) for one in where or [] if "=" in one)
    if len(wanted) < len(where or []):
        raise UserError("--where: takes PARAMETER=VALUE, each parameter once")
    found = overview(
        read(all_branches=all_branches, all_commits=all_commits),
        by=_names(by),
        measures=_names(measure),
        baseline=baseline or None,
        where=wanted,
        commits=all_branches or all_commits,
        interval=interval.value,
    )
    shown = {
        TableFormat.MARKDOWN: found.table.as_markdown,
        TableFormat.LATEX: found.table.as_latex,
        TableFormat.CSV: found.table.as_csv,
    }
    typer.echo(shown[format]().rstrip("\n"))
    for line in found.remarks:
        _say(f"\n{line}")


def _names(joined: str) -> list[str]:
    return [name.strip() for name in joined.split(",") if name.strip()]


study = typer.Typer(
    help="Run many experiments that answer one question, of a file studies/NAME.yaml.\n\n"
    "Its results are in studies/NAME: tables, pictures, and every run, from which they are made.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(study, name="study")

StudyFile = Annotated[Path, typer.Argument(help="The study's file.", show_default=False)]


@study.command("check")
def check_study(path: StudyFile) -> None:
    """Tell whether a study makes sense, how many runs it has, how many are missing, and about how long they take.

    The exit status is 1 if there is a mistake in it.

    Examples:

        fedpipe study check studies/example.yaml
    """
    from fedpipe.studies import commands

    for line in commands.check_study(path):
        typer.echo(line)


@study.command("run")
def run_study(
    path: StudyFile,
    hours: Annotated[
        float | None,
        typer.Option(help="No run begins after this time; without it, all that are missing are run.", min=0),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Runs at the same time, on a thread each; auto for one a core. With 1, a run has all workers of "
            "compute.workers. The study's compute.workers if left out.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help='A cell, by its settings, as in "iid, fedavg"; may be repeated. All if left out.', metavar="CELL"
        ),
    ] = None,
) -> None:
    """Run what is missing of a study, and write its tables and pictures.

    Each finished run is kept. A study that was stopped goes on when it is run again, and comes to the same results. A
    run is missing, too, if a parameter, the code or the data that it follows from is another now.

    Examples:

        fedpipe study run studies/example.yaml

        fedpipe study run studies/strategies.yaml --hours 2

        fedpipe study run studies/strategies.yaml --only "dirichlet 0.1, scaffold"
    """
    from fedpipe.studies import commands
    from fedpipe.system.lifetime import end_in_order, end_with_dvc

    end_in_order()
    end_with_dvc()
    done = commands.run_study(path, hours=hours, workers=commands.workers_of(workers), only=only or ())
    typer.echo(done.text, nl=False)


@study.command("show")
def show_study(path: StudyFile) -> None:
    """Write a study's tables and pictures anew from the runs that are recorded, and print the tables.

    It needs no data and runs nothing: change the layout in the study's file, and see.

    Examples:

        fedpipe study show studies/example.yaml
    """
    from fedpipe.studies import commands

    typer.echo(commands.show_study(path, say=_say).text, nl=False)


class Format(StrEnum):
    """The formats that models are exported to."""

    STATE_DICT = "state-dict"
    TORCH_EXPORT = "torch-export"
    ONNX = "onnx"


Model = Annotated[Path, typer.Option("--model", help="The model, as the pipeline or `result.save` wrote it.")]
FEDERATED = Path("models/federated.safetensors")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    model: Model = FEDERATED,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Only scale images, and make them grey for a model of grey images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every class.")] = False,
) -> None:
    """Tell what images show, with probabilities, and what was done to bring them into the form of those in training.

    Images of the model's size are taken as they are. For a model of handwriting, larger ones are taken for photos or
    drawings of one character: the ink is found, cropped and placed as in the data set. For other models, they are
    cropped to their middle and scaled. An image that cannot be used is a line, and the exit status is then 1.

    Examples:

        fedpipe predict photo.jpg

        fedpipe predict photos/ --model models/baseline.safetensors --json > predictions.json
    """
    from fedpipe.serving import prediction, trained

    problems: list[str] = []
    found = list(prediction.predict(trained.read(model), images, as_is=as_is, on_problem=problems.append))
    if as_json:
        _print_json([one.as_json() for one in found])
    elif found:
        _terminal().print(prediction.as_table(found))
    for line in problems:
        _say(line)
    if problems:
        raise typer.Exit(1)


@app.command()
def export(
    format: Annotated[Format, typer.Option("--format", help="What to write.", show_default=False)],
    model: Model = FEDERATED,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The file to write, or its folder; beside the model if left out."),
    ] = None,
) -> None:
    """Write a model in the format of other programs, which then run it without fedpipe.

    torch-export is a program that torch runs, onnx one that ONNX Runtime and others run, with the normalisation of
    images inside; state-dict is the tensors alone, for a network of your own code.

    Examples:

        fedpipe export --format onnx

        fedpipe export --format torch-export --model models/baseline.safetensors --output baseline.pt2
    """
    from fedpipe.serving import export, trained

    path = output or model.parent
    if path.is_dir():
        path /= model.with_suffix(export.FORMATS[format].suffix).name
    use = export.export(trained.read(model), format, path)
    typer.echo(path)
    _say(use)


def main() -> None:
    """Run the program `fedpipe`, and exit."""
    console.run(lambda: app(prog_name="fedpipe"))


if __name__ == "__main__":
    main()
