"""The results of a study, from the runs that are recorded: a tidy table, tables to publish, and pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpipe.results.figures import render
from fedpipe.studies import curves
from fedpipe.studies.records import Record
from fedpipe.studies.study import Study
from fedpipe.system.files import replacing, write_table

if TYPE_CHECKING:
    import pandas as pd

RESULTS, MARKDOWN, LATEX, FIGURES = "results.csv", "table.md", "table.tex", "figures"


@dataclass(frozen=True)
class Results:
    """What a study came to, as tables."""

    study: Study
    records: Sequence[Record]  # of the runs that count
    text: str  # table.md

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


def write(study: Study, records: Sequence[Record], folder: Path) -> Results:
    """Write results.csv, table.md, table.tex and the pictures, and return what they show.

    Args:
        study: says what is measured and shown.
        records: the runs that count.
        folder: of the results.
    """
    write_table(folder / RESULTS, _rows(study, records))
    if study.figures:
        with replacing(folder / FIGURES) as new:
            new.mkdir()
            for number, figure in enumerate(study.figures, start=1):
                for part, (what, of) in enumerate(_parts(study, records, [figure.lines, figure.panels]), start=1):
                    name = f"{number}-{part}-{figure.measure}-over-{figure.over}"
                    render(curves.chart(figure, study.question, what, study.axes, of), new / f"{name}.png")
    return Results(study, records, "")


def _parts(study: Study, records: Sequence[Record], shown: Sequence[str | None]) -> Iterator[tuple[str, list[Record]]]:
    """Yield the runs that one table or picture shows, and what they have in common besides: a setting of other axes."""
    others = {axis: labels for axis, labels in study.axes.items() if axis not in shown}
    for chosen in product(*others.values()):
        wanted = dict(zip(others, chosen, strict=True))
        part = [record for record in records if wanted.items() <= record.labels.items()]
        yield ", ".join([_data(records), *(f"{axis} {label}" for axis, label in wanted.items())]), part


def _data(records: Sequence[Record]) -> str:
    """Return the name of the data set, or of all that there are."""
    return " and ".join(dict.fromkeys(record.data.rpartition(" ")[0] for record in records))


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
