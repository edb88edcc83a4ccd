"""The results of a study, from the runs that are recorded: a tidy table, tables to publish, and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpipe.studies.records import Record
from fedpipe.studies.study import Study
from fedpipe.system.files import write_table

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
    return Results(study, records, "")


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
