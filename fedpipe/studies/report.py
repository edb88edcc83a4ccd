"""The page of a study: its question, tables with intervals and differences, figures with bands, runs, what lacks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedpipe.results.charts import Chart
from fedpipe.results.page import render
from fedpipe.results.wording import NOTHING, Table, counted, number, percent, shown
from fedpipe.studies import tables
from fedpipe.studies.records import Missing, Record
from fedpipe.studies.statistics import MIN_RUNS
from fedpipe.studies.study import Study

GOOD = 5  # seeds: fewer give intervals that are hardly of use


@dataclass(frozen=True)
class Shown:
    """Hold a table with what a reader must know to read it."""

    table: Table
    notes: Sequence[str]


def page(
    study: Study, records: Sequence[Record], name: str, missing: Missing, found: Sequence[tables.Table],
    figures: Sequence[tuple[str, str, dict[str, Any]]], about: str,
) -> str:  # fmt: skip
    """Return the page of a study as HTML, in one file that needs no other.

    Args:
        study: says what is measured and shown.
        records: the runs that count.
        name: of the study.
        missing: what is not there.
        found: the tables.
        figures: of each name, title and Vega-Lite specification.
        about: what the runs and measures are, as lines of a list in Markdown.
    """
    sections = [("results", "Results")]
    sections += [("figures", "Figures")] if figures else []
    sections += [("parameters", "Parameters"), ("runs", "Runs"), ("missing", "What is missing")]
    return render(
        "study.html.jinja",
        study=study,
        name=name,
        sections=[*sections, ("limits", "What this does not show")],
        about=[line.removeprefix("- ") for line in about.splitlines()],
        tables=[_shown(grid) for table in found for grid in table.grids()],
        figures=[_chart(*figure) for figure in figures],
        base=_base(study),
        settings=_settings(study),
        runs=_runs(study, records),
        missing=said_missing(missing),
        limits=list(limits(study, records, missing)),
    )


def limits(study: Study, records: Sequence[Record], missing: Missing) -> Iterator[tuple[str, str]]:
    """Yield what a study does not show: what, and why."""
    seeds = len({record.seed for record in records})
    if seeds < MIN_RUNS:
        yield (
            "How far chance goes",
            f"There {'is' if seeds == 1 else 'are'} {counted(seeds, 'seed')}: too few for an interval, so that no "
            f"difference is told from chance. It takes {MIN_RUNS}, and {GOOD} to be of use.",
        )
    elif seeds < GOOD:
        yield (
            "Small differences",
            f"{seeds} seeds give wide intervals: an effect that they do not find may be there.",
        )
    diverged = sum(record.state == "diverged" for record in records)
    if diverged:
        yield (
            "What runs that diverged can reach",
            f"{counted(diverged, 'run')} of {len(records):,} diverged, and are counted but in no mean: the mean of a "
            "setting is over those that did well. With other rates they may do well too.",
        )
    failed = sum(record.state == "failed" for record in records)
    if failed:
        yield ("Runs that failed", f"{counted(failed, 'run')} of {len(records):,} failed, and have no results.")
    if missing.runs and not missing.of_other_code:
        yield (
            "The study as a whole",
            f"{missing.runs:,} of {missing.total:,} runs are missing: rows may be over different seeds.",
        )
    if missing.of_other_code:
        yield (
            "What the code of today does",
            "The runs were made with other parameters, data or code than those that are here now.",
        )
    if any("sample" in record.data for record in records):
        yield (
            "A result on the whole data set",
            f"The runs are on {records[0].data.rpartition(' ')[0]}, which stands in for a larger one.",
        )
    if study.tune is None and len(study.settings) and any(len(of) > 1 for of in study.axes.values()):
        yield (
            "Each setting at its best",
            "Nothing was tuned: all settings have the same learning rates and the like, which may suit one of them and "
            "not another.",
        )
    if any(record.evaluated_on == "test" for record in records):
        yield (
            "Which setting to choose",
            "There were no validation data: all is on the test set. Who chooses a setting by this page has no data "
            "left to judge the choice on.",
        )
    if any(measure.kind == "seconds" for measure in study.measures.values()):
        yield ("Speed", "Seconds are of runs that shared a machine with others; benchmarks compare speed.")
    yield (
        "Other data and models",
        "What holds for these data, models and budgets need not hold for others.",
    )


def said_missing(missing: Missing) -> str:
    """Return what is missing of a study, and what it would take, in words."""
    if not missing.runs:
        return "Nothing is missing: all runs of the study are recorded."
    takes = "an unknown time, which no run so far tells"
    if missing.seconds is not None:
        hours = missing.seconds / 3600
        about = f"{number(hours, 1)} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
        takes = f"about {about} on one core, by the runs so far"
    if missing.of_other_code:
        return (
            f"No run was made with the parameters, data and code that are here now. To make all {missing.total:,} anew "
            f"takes {takes}; `fedpipe study run` does it."
        )
    return f"{missing.runs:,} of {missing.total:,} runs are missing, which take {takes}; `fedpipe study run` does them."


def _shown(grid: tables.Grid) -> Shown:
    return Shown(Table(grid.title, grid.header, grid.lines), grid.notes)


def _chart(name: str, title: str, specification: dict[str, Any]) -> Chart:
    [points] = specification.get("datasets", {}).values() or [[]]
    lines = list(dict.fromkeys(str(point["line"]) for point in points))
    last = {(point["panel"], point["line"]): point for point in points}
    said = f"Mean over seeds with a band of its 95 % interval, a line each for {', '.join(lines)}."
    subtitle = specification.get("title", {}).get("subtitle", [])
    said = " ".join([said, *(f"{line}." for line in subtitle[2:])])
    fraction = "accuracy" in title.lower()
    show = percent if fraction else number
    rows = [
        [str(line), *([str(panel)] if panel else []), number(point["x"]), show(point["mean"]),
         f"{show(point['low'])} to {show(point['high'])}"]
        for (panel, line), point in last.items()
    ]  # fmt: skip
    panels = any(panel for panel, _ in last)
    heads = ["line", *(["panel"] if panels else []), "last at", "mean", "95 % interval"]
    return Chart(f"figure-{name}", title, said, specification, Table("Where each line ends", heads, rows))


def _base(study: Study) -> Table:
    rows = [[name, shown(value)] for name, value in study.base.items()]
    rows.append(["seeds", ", ".join(map(str, study.seeds))])
    return Table("Parameters of all runs that differ from params.yaml", ["parameter", "value"], rows)


def _settings(study: Study) -> Table:
    rows = [
        [axis, setting, ", ".join(f"{name} {shown(value)}" for name, value in changes.items()) or NOTHING]
        for axis, of in study.settings.items()
        for setting, changes in of.items()
    ]
    if study.tune:
        rows += [["tuned", name, ", ".join(map(shown, values))] for name, values in study.tune.grid.items()]
    return Table("What each setting changes", ["axis", "setting", "parameters"], rows)


def _runs(study: Study, records: Sequence[Record]) -> Table:
    rows = []
    for record in records:
        values = []
        for measure in study.measures.values():
            value = None if record.state == "failed" else record.value(measure)
            values.append(percent(value) if measure.is_fraction else number(value))
        tuned = [record.tuned.get(name, NOTHING) for name in study.tuned]
        state = f"failed: {record.reason}" if record.reason else record.state
        seconds = number(record.seconds, 1)
        rows.append([*record.labels.values(), *tuned, str(record.seed), state, *values, seconds, record.key])
    heads = [*study.axes, *study.tuned, "seed", "state", *study.measures, "seconds", "key"]
    return Table("Each run that counts", heads, rows)
