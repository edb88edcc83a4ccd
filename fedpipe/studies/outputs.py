"""The results of a study, from the runs that are recorded: a tidy table, tables to publish, and pictures."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpipe.studies.records import NOTHING_MISSING, Missing, Record
from fedpipe.studies.study import Study, Table
from fedpipe.system.files import replacing, write_table, write_text

if TYPE_CHECKING:
    import pandas as pd

    from fedpipe.studies import tables

RESULTS, MARKDOWN, LATEX, FIGURES = "results.csv", "table.md", "table.tex", "figures"
PAGE = "report.html"

Drawn = tuple[str, str, dict[str, Any]]  # the name of a figure, its title, and a Vega-Lite specification


@dataclass(frozen=True, repr=False)
class Results:
    """What a study came to."""

    study: Study
    records: Sequence[Record]  # of the runs that count
    text: str  # of table.md

    @property
    def results(self) -> "pd.DataFrame":
        """A row for each run and measure: the settings, what tuning chose, seed, measure, value, state."""
        import pandas as pd

        return pd.DataFrame(_rows(self.study, self.records))

    @property
    def rounds(self) -> "pd.DataFrame":
        """A row for each run and round: the settings, seed, and what the round did."""
        import pandas as pd

        return pd.DataFrame(
            {**record.labels, "seed": record.seed, **row} for record in self.records for row in record.rounds
        )

    def __repr__(self) -> str:
        return f"<{self.study.question} {len(self.records)} runs>"

    def _repr_markdown_(self) -> str:
        return self.text


def write(study: Study, records: Sequence[Record], folder: Path, missing: Missing = NOTHING_MISSING) -> Results:
    """Write results.csv, table.md, table.tex, the pictures and the page, and return what they show.

    Args:
        study: says what is measured and shown.
        records: the runs that count.
        folder: of the results.
        missing: what is not there.
    """
    write_table(folder / RESULTS, _rows(study, records))
    shown = tables_of(study, records)
    parts = [f"**{study.question}**", _about(study, records), *(table.as_markdown() for table in shown)]
    text = "\n\n".join([*parts, *_chosen(study, records)]) + "\n"
    write_text(folder / MARKDOWN, text)
    write_text(folder / LATEX, "\n\n".join(table.as_latex() for table in shown) + "\n")
    figures = list(figures_of(study, records))
    _draw(figures, folder / FIGURES)
    write_text(folder / PAGE, _page(study, records, folder.name, missing, shown, figures))
    return Results(study, records, text)


def page(study: Study, records: Sequence[Record], name: str, missing: Missing = NOTHING_MISSING) -> str:
    """Return the page of a study as HTML, in one file that needs no other.

    Args:
        study: says what is measured and shown.
        records: the runs that count.
        name: of the study.
        missing: what is not there.
    """
    return _page(study, records, name, missing, tables_of(study, records), list(figures_of(study, records)))


def _page(
    study: Study, records: Sequence[Record], name: str, missing: Missing, shown: "Sequence[tables.Table]",
    figures: Sequence[Drawn],
) -> str:  # fmt: skip
    from fedpipe.studies import report  # which takes a second

    return report.page(study, records, name, missing, shown, figures, _about(study, records))


def tables_of(study: Study, records: Sequence[Record]) -> "list[tables.Table]":
    """Return the study's tables."""
    return [_table(study, layout, records) for layout in _layouts(study)]


def figures_of(study: Study, records: Sequence[Record]) -> Iterator[Drawn]:
    """Yield the study's figures: name, what tells each from others, and a Vega-Lite specification.

    Where there are axes that a figure does not show, there is one for each of their settings.
    """
    if not study.figures:
        return
    from fedpipe.studies import curves  # which takes a second

    for number, figure in enumerate(study.figures, start=1):
        others = [axis for axis in study.axes if axis not in (figure.lines, figure.panels)]
        for part, chosen in enumerate(product(*(study.axes[axis] for axis in others)), start=1):
            wanted = dict(zip(others, chosen, strict=True))
            shown = [record for record in records if wanted.items() <= record.labels.items()]
            told = [f"{axis} {label}" for axis, label in wanted.items()]
            about = ", ".join([_data(records), *told])
            name = f"{number}{f'-{part}' if others else ''}-{figure.measure}-over-{figure.over.replace(' ', '-')}"
            title = ", ".join([f"{figure.measure.capitalize()} over {figure.over}", *told])
            yield name, title, curves.chart(figure, study.question, about, study.axes, shown)


def _rows(study: Study, records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            **record.labels,
            **{name: record.tuned.get(name) for name in study.tuned},
            "seed": record.seed,
            "measure": name,
            "value": None if record.state == "failed" else record.value(measure),
            "state": record.state,
        }
        for record in records
        for name, measure in study.measures.items()
    ]


def _layouts(study: Study) -> list[Table]:
    """Return the layouts of tables; a plain one if the study has none."""
    *others, last = study.axes
    return study.tables or [Table(rows=last, columns=others[0] if others else None)]


def _table(study: Study, layout: Table, records: Sequence[Record]) -> "tables.Table":
    import pandas as pd

    from fedpipe.studies import tables

    names = [layout.measure] if layout.measure else [*study.measures]
    columns = [axis for axis in dict.fromkeys([layout.columns, *study.axes]) if axis not in (None, layout.rows)]
    places = {axis: labels.index for axis, labels in study.axes.items()}
    frame = pd.DataFrame(_rows(study, sorted(
        records, key=lambda record: [places[axis](record.labels[axis]) for axis in (layout.rows, *columns)]
    )))  # fmt: skip
    last = {(*record.labels.values(), record.seed): record.rounds[-1]["round"] for record in records if record.rounds}
    keys = zip(*(frame[name] for name in (*study.axes, "seed")), strict=True)
    frame = frame.assign(diverged=frame["state"] == "diverged", last=[last.get(key, 0) for key in keys])
    frame = frame.loc[frame["measure"].isin(names), :]
    return tables.tabulate(
        frame,
        rows=[layout.rows],
        columns=columns,
        measures=[
            tables.Measure(name, percent=measure.is_fraction, rounds=measure.kind == "rounds_to")
            for name in names
            for measure in [study.measures[name]]
        ],
        baseline=[layout.baseline] if layout.baseline is not None else None,
    )


def _about(study: Study, records: Sequence[Record]) -> str:
    """Say what the runs are: data, seeds, and what each measure is."""
    seeds = ", ".join(map(str, sorted({record.seed for record in records})))
    on = " and ".join(dict.fromkeys(record.evaluated_on for record in records))
    told = [f"- {name}: {measure.in_words(on)}" for name, measure in study.measures.items()]
    return "\n".join([f"- {_data(records)}; seeds {seeds}", *told])


def _chosen(study: Study, records: Sequence[Record]) -> Iterator[str]:
    """Yield a table of the values that tuning chose, for each parameter."""
    rows, columns = _layouts(study)[0].rows, [axis for axis in study.axes if axis != _layouts(study)[0].rows]
    heads = list(product(*(study.axes[axis] for axis in columns)))
    for name in study.tuned:
        found = {
            (record.labels[rows], *(record.labels[axis] for axis in columns)): record.tuned.get(name, "–")
            for record in records
        }
        lines = [
            f"| {' | '.join([label, *(found.get((label, *head), '–') for head in heads)])} |"
            for label in study.axes[rows]
        ]
        header = f"| {rows} | {' | '.join(', '.join(head) or name for head in heads)} |"
        yield "\n".join(
            [f"{name}, as tuning on validation data chose it", "", header, f"| --- |{' ---: |' * len(heads)}", *lines]
        )


def _draw(figures: Sequence[Drawn], folder: Path) -> None:
    """Draw the pictures."""
    if not figures:
        shutil.rmtree(folder, ignore_errors=True)
        return
    from fedpipe.results.figures import render  # which takes a second

    with replacing(folder) as new:
        new.mkdir()
        for name, _, chart in figures:
            render(chart, new / f"{name}.png", colours=None)


def _data(records: Sequence[Record]) -> str:
    """Return the name of the data set, or of all that there are."""
    return " and ".join(dict.fromkeys(record.data.rpartition(" ")[0] for record in records))
