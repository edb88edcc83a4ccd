"""Pages and figures of runs and studies, for people at a terminal to write where they like."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fedpipe.results.charts import charts
from fedpipe.results.comparison import CENTRALISED, FEDERATED, LOCAL
from fedpipe.results.figures import Format, typeset
from fedpipe.results.report import page
from fedpipe.results.run import Repeats, Run, read_run
from fedpipe.results.source import source_of
from fedpipe.studies import outputs, summary
from fedpipe.studies.commands import results_of
from fedpipe.studies.statistics import summarise
from fedpipe.system.errors import UserError
from fedpipe.system.files import write_text

METRICS = {FEDERATED: "accuracy", CENTRALISED: "centralised", LOCAL: "local"}  # of DVC, that are of the methods
STUDIES = Path("studies")
INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72}  # of a unit
WIDTHS = 1.0, 20.0  # inches


def of_run(revision: str, path: Path, *, repeats: bool) -> list[str]:
    """Write the page of a run, and return what is to be said of it.

    Args:
        revision: a revision of git, an experiment of DVC, or the workspace.
        path: the file.
        repeats: whether to look for experiments that differ from it in their seed alone.

    Raises:
        UserError: there is no such run, or DVC cannot show its experiments.
    """
    run = read_run(source_of(revision))
    said: list[str] = []
    if repeats:
        found = repeats_of(run, summary.read(all_branches=True).runs)
        seeds = max((of.seeds for of in found.values()), default=1)
        if seeds > 1:
            run = replace(run, repeats=found)
            said.append(f"with intervals over {seeds} seeds: DVC has experiments that differ in their seed alone")
    write_text(path, page(run))
    return said


def repeats_of(run: Run, others: Sequence[summary.Run]) -> dict[str, Repeats]:
    """Return what each method came to over seeds, of a run and of others with the same parameters."""
    alike = {name: value for name, value in run.parameters.items() if name not in (summary.SEED, summary.SAMPLE)}
    by_seed: dict[Any, dict[str, float | None]] = {}
    for other in others:
        known = {name: value for name, value in other.parameters.items() if name not in (summary.SEED, summary.SAMPLE)}
        if known == alike and bool(other.metrics.get(summary.SAMPLE)) == run.is_sample:
            values = {method: other.metrics.get(metric) for method, metric in METRICS.items()}
            by_seed.setdefault(other.parameters.get(summary.SEED), values)
    own = {method: None if method in run.diverged else run.accuracy(method) for method in METRICS}
    by_seed[run.parameters.get(summary.SEED)] = own | {LOCAL: run.accuracy(LOCAL)}
    found = {}
    for method in METRICS:
        over = summarise([values[method] for values in by_seed.values()])
        if over.mean is not None:
            low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (over.low, over.high))
            found[method] = Repeats(over.runs, over.mean, low, high)
    return found


def figures(revision: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the title of each figure of a run, and of the studies of which something is recorded.

    Raises:
        UserError: there is no such run.
    """
    for chart in charts(read_run(source_of(revision))):
        yield chart.name, chart.title
    for file in sorted(STUDIES.glob("*.yaml")):
        try:
            results = results_of(file)
        except UserError:  # nothing is recorded
            continue
        for name, title, _ in outputs.figures_of(*results):
            yield f"{file.stem}/{name}", title


def draw_figure(name: str, path: Path, format: Format, width: str, revision: str) -> None:
    """Draw a figure for a paper.

    Args:
        name: of the figure, as `figures` has it; of a study, the beginning of it is enough.
        path: the file to write.
        format: of the file.
        width: with its unit, such as 3.3in.
        revision: whose figure is drawn; studies are those of the workspace.

    Raises:
        UserError: there is no such figure, the width is none, or there is no such run.
    """
    inches = _inches(width)
    study, _, of_study = name.partition("/")
    if of_study:
        file = STUDIES / f"{study}.yaml"
        known = {one: chart for one, _, chart in outputs.figures_of(*results_of(file))}
        found = [one for one in known if one == of_study or one.startswith(f"{of_study}-")]
        if not found:
            raise UserError(f"{name}: no figure of {file}; there is {', '.join(f'{study}/{one}' for one in known)}")
        typeset(known[found[0]], path, format, inches)
        return
    drawn = {chart.name: chart.specification for chart in charts(read_run(source_of(revision)))}
    if name not in drawn:
        near = get_close_matches(name, drawn, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: no figure of this run; {meant}`fedpipe figure` prints all")
    typeset(drawn[name], path, format, inches)


def _inches(width: str) -> float:
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4})?) ?(in|cm|mm|pt)", width)
    inches = float(found[1]) * INCHES[found[2]] if found else 0.0
    if not WIDTHS[0] <= inches <= WIDTHS[1]:
        raise UserError(
            f"--width: {width}: must be from {WIDTHS[0]:g} to {WIDTHS[1]:g} inches, as 3.3in, 8.4cm, 84mm or 240pt"
        )
    return inches
