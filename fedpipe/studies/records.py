"""What the runs of a study came to, in plain files that are also results: runs.csv and rounds.csv."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from fedpipe.studies.statistics import rounds_to
from fedpipe.studies.study import Measure, Study, when
from fedpipe.system.files import finite, reading, write_table

RUNS, ROUNDS = "runs.csv", "rounds.csv"
CLIENTS = {"mean": "clients_mean", "worst tenth": "clients_worst_tenth", "spread": "clients_spread"}  # measure: column
SIDES = {"down": ("bytes_down",), "up": ("bytes_up",), "both": ("bytes_down", "bytes_up")}

Number = int | float | None
Judge = Literal["test", "validation"]


@dataclass(frozen=True)
class Record:
    """What a run came to."""

    key: str  # of all that its result follows from but the data set
    data: str  # of the data set
    phase: str  # tune or final
    labels: Mapping[str, str]  # of the settings of its cell, by axis
    tuned: Mapping[str, str]  # the values that tuning chose or tried, as JSON, by parameter
    seed: int
    state: str  # done, diverged or failed
    reason: str = ""  # why it failed
    seconds: float = 0.0
    clients: Mapping[str, Number] = field(default_factory=dict)  # by column
    rounds: tuple[Mapping[str, Number], ...] = ()

    @property
    def evaluated_on(self) -> Judge:
        """What rounds were evaluated on: validation data if there were any, and then the last round on the test set."""
        return "validation" if any(row.get("validation_accuracy") is not None for row in self.rounds) else "test"

    def value(self, measure: Measure, on: Judge = "test") -> float | None:
        """Return what the measure is of this run; None if it has no value, such as a target that was not reached.

        Args:
            measure: what to measure.
            on: the data that accuracy and loss are measured on.
        """
        match measure.kind:
            case "accuracy" | "loss" | "backdoor":
                return self._at(measure.of, on, measure.kind)
            case "epsilon":
                return self.rounds[-1].get(f"epsilon_{measure.of}") if self.rounds else None
            case "rounds_to":
                curve = self.curve(self.evaluated_on, "accuracy")
                return rounds_to(measure.of, [number for number, _ in curve], [accuracy for _, accuracy in curve])
            case "clients":
                return self.clients.get(CLIENTS[measure.of])
            case "megabytes":
                return sum(row[side] or 0 for row in self.rounds for side in SIDES[measure.of]) / 1e6
            case _:
                return self.seconds

    def curve(self, on: Judge, kind: str) -> list[tuple[int, float]]:
        """Return the rounds that were evaluated on this data, with accuracy or loss; NaN where this was no number.

        Of the kind `backdoor` it is the success rate, and of the kind `epsilon` what was spent until then; runs without
        have no such rounds.
        """
        evaluated = [row for row in self.rounds if row.get(f"{on}_accuracy") is not None]
        if column := {"backdoor": "backdoor_success", "epsilon": "epsilon_pld"}.get(kind):
            evaluated = [row for row in evaluated if row.get(column) is not None]
        values = [row[column or f"{on}_{kind}"] for row in evaluated]
        numbers = [int(row["round"] or 0) for row in evaluated]
        return [(n, math.nan if value is None else value) for n, value in zip(numbers, values, strict=True)]

    def _at(self, moment: str, on: Judge, kind: str) -> float | None:
        word, number = when(moment)
        curve = self.curve(on, kind)
        values = [value for _, value in curve][-number:] if word == "last" else [v for n, v in curve if n == number]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Missing:
    """Tell what of a study is not there, and what it would take."""

    runs: int = 0
    total: int = 0
    seconds: float | None = None  # on one thread; None if no run tells
    of_other_code: bool = False  # what is shown was made with other parameters, data or code


NOTHING_MISSING = Missing()


class Store:
    """The files of a study's results.

    Each finished run is appended at once. A run of which only a part was written, as when the program was killed, is
    ignored. `write` puts all in their order, so that it does not show in which order they ran.

    Args:
        folder: of the study's results.
        study: says which columns there are.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self._axes, self._tuned = folder, [*study.axes], study.tuned
        self._round_columns: list[str] = []

    def read(self) -> dict[str, Record]:
        """Return the runs that are recorded, by key.

        Raises:
            UserError: a file is not what `write` writes.
        """
        rounds: dict[str, list[Mapping[str, Number]]] = {}
        with _reading(self.folder / ROUNDS) as rows:
            for row in rows:
                rounds.setdefault(row.pop("key"), []).append({name: _number(text) for name, text in row.items()})
        with _reading(self.folder / RUNS) as rows:
            return {row["key"]: self._record(row, rounds.get(row["key"], [])) for row in rows}

    def write(self, records: Sequence[Record]) -> None:
        """Write both files anew."""
        rows = [row for record in records for row in _round_rows(record)]
        self._round_columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            write_table(self.folder / ROUNDS, [dict.fromkeys(self._round_columns) | row for row in rows])
        else:
            (self.folder / ROUNDS).unlink(missing_ok=True)
        write_table(self.folder / RUNS, map(self._row, records), columns=self._columns)

    def append(self, record: Record, every: Sequence[Record]) -> None:
        """Add a run to the files that `write` wrote.

        Args:
            record: the run.
            every: all that are recorded, this one too, to write the files anew with columns that they lack.
        """
        rows = _round_rows(record)
        if any(set(row) != set(self._round_columns) for row in rows):
            self.write(every)
        else:
            _append(self.folder / ROUNDS, rows, self._round_columns)
            _append(self.folder / RUNS, [self._row(record)], self._columns)

    @property
    def _columns(self) -> list[str]:
        ends = ["seed", "state", "reason", "seconds", *CLIENTS.values()]
        return ["key", "data", "phase", *self._axes, *self._tuned, *ends]

    def _record(self, row: Mapping[str, str], rounds: Sequence[Mapping[str, Number]]) -> Record:
        return Record(
            **{name: row[name] for name in ("key", "data", "phase", "state", "reason")},
            labels={axis: row.get(axis, "") for axis in self._axes},
            tuned={name: row[name] for name in self._tuned if row.get(name)},
            seed=int(row["seed"]),
            seconds=float(row["seconds"]),
            clients={column: _number(row[column]) for column in CLIENTS.values()},
            rounds=tuple(rounds),
        )

    def _row(self, record: Record) -> dict[str, Any]:
        given = {name: getattr(record, name) for name in ("key", "data", "phase", "seed", "state", "reason", "seconds")}
        row = dict.fromkeys(self._columns) | given | dict(record.labels) | dict(record.tuned) | dict(record.clients)
        return {name: row[name] for name in self._columns}


def _round_rows(record: Record) -> list[dict[str, Any]]:
    return [{"key": record.key, **row} for row in record.rounds]


def _append(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    text = StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(finite(dict(row)) for row in rows)
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())


@contextmanager
def _reading(path: Path) -> Iterator[list[dict[str, str]]]:
    """Give the block the rows of a table, without a last one of which only a part is there; none if it is not there."""
    if not path.exists():
        yield []
        return
    with reading(path, part_of=path):
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row is not as long as the others")
        yield rows


def _number(text: str) -> Number:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
