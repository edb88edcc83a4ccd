"""Tables of results over seeds, for a terminal and a page (Markdown), a paper (LaTeX) and other programs (CSV)."""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fedpipe.studies.statistics import (
    LEVEL,
    MIN_RUNS,
    Difference,
    Interval,
    Summary,
    TimeToTarget,
    holm,
    is_number,
    paired,
    summarise,
    time_to_target,
)

WIDEST = 100  # characters of a table in Markdown
WIDEST_LABELS = 50  # of which its rows' labels take at most that many
NOTHING = "–"
MOST_DECIMALS = 4


@dataclass(frozen=True)
class Measure:
    """Tell what the values of a measure are, and how they are shown."""

    name: str
    percent: bool = False  # the values are fractions
    rounds: bool = False  # rounds to a target: a run without a value never reached it, which is a result
    decimals: int | None = None  # None takes them from the spread

    @property
    def heading(self) -> str:
        """Return what stands above its values."""
        return f"{self.name}, %" if self.percent else self.name


@dataclass(frozen=True)
class Entry:
    """Hold what one measure came to in one row and column of a table."""

    measure: Measure
    row: tuple[str, ...]
    column: tuple[str, ...]
    summary: Summary
    time: TimeToTarget | None  # of a measure in rounds to a target
    difference: Difference | None  # from the baseline in the same column; None for the baseline, and without one
    p_t: float | None = None  # of the paired t test, adjusted by Holm over all differences of the measure
    p_wilcoxon: float | None = None  # likewise

    @property
    def runs(self) -> int:
        """Return the number of runs, whether they have a number or not."""
        return self.summary.runs + self.summary.diverged + self.summary.missing


@dataclass(frozen=True)
class Table:
    """Hold results over seeds, which `as_markdown`, `as_latex` and `as_csv` show."""

    rows: tuple[str, ...]  # what the labels of rows mean
    columns: tuple[str, ...]
    baseline: tuple[str, ...] | None  # the labels of a row
    level: float  # of the intervals
    interval: Interval
    entries: tuple[Entry, ...]

    def grids(self) -> list["Grid"]:
        """Return what is shown, as tables of text of any width."""
        return list(_grids(self, math.inf))

    def as_markdown(self) -> str:
        """Return Markdown, in tables of at most WIDEST characters unless a single column needs more."""
        return "\n\n".join(_as_markdown(grid) for grid in _grids(self))

    def as_latex(self) -> str:
        """Return LaTeX with the package booktabs: the same tables, in a `table` each."""
        return "\n\n".join(_as_latex(grid) for grid in _grids(self))

    def as_csv(self) -> str:
        """Return CSV with a line for each row, column and measure, with every digit. What there is not is empty."""
        return pd.DataFrame([_record(self, entry) for entry in self.entries]).to_csv(index=False)


def tabulate(
    frame: pd.DataFrame,
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    measures: Sequence[Measure],
    baseline: Sequence[object] | None = None,
    level: float = LEVEL,
    interval: Interval = "t",
    seed: int = 0,
) -> Table:
    """Return a table of results over seeds.

    Args:
        frame: a row for each run and measure. Its columns are those of `rows` and `columns`; ``measure``, the name,
            which may lack if there is one; ``seed``, the same for runs that are compared with each other, and only once
            for each combination of labels; ``value``, None or NaN for a run without one; ``diverged``, whether the run
            did; and ``last``, the last round, which only a measure in rounds to a target needs.
        rows: the columns of `frame` whose values label the rows, in order of appearance.
        columns: those whose values label the columns; a baseline is compared with within each of them.
        measures: what to show.
        baseline: the labels of a row that the others are compared with, or None.
        level: of the intervals.
        interval: how they are made; see `fedpipe.studies.statistics.summarise`.
        seed: of the bootstrap's draws.

    Raises:
        ValueError: two runs with equal labels have one seed, or no row has the labels of the baseline.
    """
    frame = frame.astype(dict.fromkeys([*rows, *columns], object))
    for name in [*rows, *columns]:
        frame[name] = [label(value) for value in frame[name]]
    labels = None if baseline is None else tuple(label(value) for value in baseline)
    entries = [
        entry
        for measure in measures
        for entry in _of_measure(frame, measure, tuple(rows), tuple(columns), labels, level, interval, seed)
    ]
    if labels is not None and all(entry.row != labels for entry in entries):
        raise ValueError(f"{', '.join(labels)}: no row to compare with")
    return Table(tuple(rows), tuple(columns), labels, level, interval, tuple(entries))


def label(value: object) -> str:
    """Return a parameter's value as a table names it: 0.1, true, or – for one that is not there."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_measure(
    frame: pd.DataFrame,
    measure: Measure,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    baseline: tuple[str, ...] | None,
    level: float,
    interval: Interval,
    seed: int,
) -> list[Entry]:
    of_measure = frame.loc[frame["measure"] == measure.name] if "measure" in frame else frame
    cells: dict[tuple[tuple[str, ...], tuple[str, ...]], pd.DataFrame] = {}  # by row and column, in order of appearance
    for labels, runs in of_measure.groupby([*rows, *columns], sort=False):
        names = tuple(str(one) for one in labels) if isinstance(labels, tuple) else (str(labels),)
        if len(set(runs["seed"])) < len(runs):
            raise ValueError(f"{', '.join(names)}: several runs with one seed")
        if measure.rounds:  # one that diverged after it reached the target has reached it
            runs = runs.assign(diverged=runs["diverged"].astype(bool) & runs["value"].isna())
        cells[names[: len(rows)], names[len(rows) :]] = runs
    entries = []
    for (row, column), runs in cells.items():
        beside = None if baseline is None or row == baseline else cells.get((baseline, column))
        difference = None if beside is None else _difference(runs, beside, measure, level, interval, seed)
        counted = runs.loc[~runs["diverged"].astype(bool), "value"]
        summary = summarise(
            counted.tolist(), diverged=len(runs) - len(counted), level=level, interval=interval, seed=seed
        )
        time = _time(runs, level) if measure.rounds else None
        entries.append(Entry(measure, row, column, summary, time, difference))
    tests = [entry.difference for entry in entries]
    p_t, p_wilcoxon = (holm([test and getattr(test, name) for test in tests]) for name in ("p_t", "p_wilcoxon"))
    return [
        replace(entry, p_t=one, p_wilcoxon=other) for entry, one, other in zip(entries, p_t, p_wilcoxon, strict=True)
    ]


def _difference(
    runs: pd.DataFrame, baseline: pd.DataFrame, measure: Measure, level: float, interval: Interval, seed: int
) -> Difference | None:
    """Return the difference from the baseline; None if a run never reached a target, for then it has no mean."""
    if measure.rounds and not (_all_reached(runs) and _all_reached(baseline)):
        return None
    return paired(_by_seed(runs), _by_seed(baseline), level=level, interval=interval, seed=seed)


def _all_reached(runs: pd.DataFrame) -> bool:
    return all(is_number(value) for value in runs["value"])


def _by_seed(runs: pd.DataFrame) -> dict[int, float | None]:
    return {
        int(seed): None if diverged else value
        for seed, value, diverged in zip(runs["seed"], runs["value"], runs["diverged"], strict=True)
    }


def _time(runs: pd.DataFrame, level: float) -> TimeToTarget:
    last = np.where(runs["diverged"].astype(bool), math.inf, runs["last"].astype(float))
    return time_to_target(runs["value"].tolist(), last.tolist(), level=level)


def _record(table: Table, entry: Entry) -> dict[str, object]:
    """Return an entry as a line of the CSV."""
    summary, difference, time = entry.summary, entry.difference, entry.time
    if time and time.reached < time.runs:  # a mean over those that reached it would leave out the slowest
        summary = replace(summary, mean=None, std=None, low=None, high=None)
    record: dict[str, object] = {
        **dict(zip(table.rows, entry.row, strict=True)),
        **dict(zip(table.columns, entry.column, strict=True)),
        "measure": entry.measure.name,
        "runs": entry.runs,
        "diverged": summary.diverged,
        "without_a_number": summary.missing,
        "mean": summary.mean,
        "std": summary.std,
        "low": summary.low,
        "high": summary.high,
    }
    if any(one.time for one in table.entries):
        record |= {
            "reached": time and time.reached,
            "median": time and time.median,
            "median_low": time and time.low,
            "median_high": time and time.high,
            "last": time and time.last,
        }
    if table.baseline is not None:
        record |= {
            "pairs": difference and difference.pairs,
            "difference": difference and difference.mean,
            "difference_low": difference and difference.low,
            "difference_high": difference and difference.high,
            "p_t": difference and difference.p_t,
            "p_wilcoxon": difference and difference.p_wilcoxon,
            "p_t_holm": entry.p_t,
            "p_wilcoxon_holm": entry.p_wilcoxon,
        }
    return record


@dataclass(frozen=True)
class Grid:
    """Hold a table as text."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    labels: int  # columns that are labels, on the left
    notes: tuple[str, ...]


def _grids(table: Table, width: float = WIDEST) -> Iterator[Grid]:
    """Yield what to show, in tables that are no wider than so many characters."""
    table, legend = (table, []) if width > WIDEST else _numbered(table)
    measures = list(dict.fromkeys(entry.measure for entry in table.entries))
    for measure in measures:
        entries = [entry for entry in table.entries if entry.measure == measure]
        for grid in _of_columns(table, entries) if table.columns else _of_rows(table, entries, width):
            grid = replace(grid, notes=(*legend, *grid.notes)) if grid.notes or legend else grid
            yield from _in_width(grid, width)


def _numbered(table: Table) -> tuple[Table, list[str]]:
    """Return the table with its rows numbered, and what the numbers mean, if their labels leave no room for numbers."""
    names = _short(table.rows)
    labels = list(dict.fromkeys(entry.row for entry in table.entries))
    if sum(max(map(len, texts)) + 3 for texts in zip(names, *labels, strict=True)) <= WIDEST_LABELS:
        return table, []
    numbers = {row: (str(number),) for number, row in enumerate(labels, 1)}
    legend = [
        f"{numbers[row][0]}: {', '.join(f'{name} {text}' for name, text in zip(names, row, strict=True))}."
        for row in labels
    ]
    entries = tuple(replace(entry, row=numbers[entry.row]) for entry in table.entries)
    return replace(table, rows=("row",), baseline=table.baseline and numbers[table.baseline], entries=entries), legend


def _of_rows(table: Table, entries: list[Entry], widest: float) -> Iterator[Grid]:
    """Yield a table with a line for each row: the mean, its interval, the difference from the baseline; or two."""
    number, measure = _Numbers.of(entries), entries[0].measure
    interval = f"{table.level * 100:g} % interval"
    ours = [
        ("runs", [str(entry.runs) for entry in entries]),
        ("median" if measure.rounds else "mean ± std", [number.cell(entry) for entry in entries]),
        (interval, [number.interval(entry) for entry in entries]),
    ]
    if _same_runs(entries):
        del ours[0]
    differences = [
        (f"less {_baseline(table)}", [number.difference(entry) for entry in entries]),
        (interval, [number.difference_interval(entry) for entry in entries]),
        ("p (t)", [_p(entry.p_t) for entry in entries]),
        ("p (Wilcoxon)", [_p(entry.p_wilcoxon) for entry in entries]),
    ]

    def grid(columns: list[tuple[str, list[str]]], notes: Iterable[str]) -> Grid:
        told = [(name, texts) for name, texts in columns if set(texts) != {NOTHING}]
        header = [*_short(table.rows), *(name for name, _ in told)]
        lines = [(*entry.row, *texts) for entry, *texts in zip(entries, *(texts for _, texts in told), strict=True)]
        return Grid(_title(entries), tuple(header), tuple(lines), len(table.rows), tuple(notes))

    whole = grid(ours if table.baseline is None else [*ours, *differences], _notes(table, entries))
    if table.baseline is None or _width(whole) <= widest:
        yield whole
    else:
        yield grid(ours, [])
        yield grid(differences, whole.notes)


def _of_columns(table: Table, entries: list[Entry]) -> Iterator[Grid]:
    """Yield a table of means, one of their intervals, and one of differences, with a column for each label."""
    number = _Numbers.of(entries)
    found = {(entry.row, entry.column): entry for entry in entries}
    rows, columns = (dict.fromkeys(labels) for labels in zip(*found, strict=True))
    heads = [
        ", ".join(f"{name} {value}" for name, value in zip(_short(table.columns), one, strict=True)) for one in columns
    ]
    header, notes = (*_short(table.rows), *heads), tuple(_notes(table, entries))
    same, title = _same_runs(entries), _title(entries)
    middle = "median" if entries[0].measure.rounds else "mean"
    interval = f"{table.level * 100:g} % interval"

    def grid(title: str, show: Callable[[Entry], str], notes: tuple[str, ...]) -> Grid:
        lines = [
            (*row, *(show(found[row, one]) if (row, one) in found else NOTHING for one in columns)) for row in rows
        ]
        return Grid(title, header, tuple(lines), len(table.rows), notes)

    def cell(entry: Entry) -> str:
        return number.cell(entry) if same else f"{number.cell(entry)} (n = {entry.runs})"

    def difference(entry: Entry) -> str:
        if entry.difference is None or entry.difference.mean is None:
            return NOTHING
        between = f" {number.difference_interval(entry)}" if entry.difference.low is not None else ""
        p = f" p {_p(entry.p_t)}" if entry.p_t is not None else ""
        return f"{number.difference(entry)}{between}{p}"

    yield grid(
        f"{title}: {middle}{'' if middle == 'median' else ' ± std'}", cell, notes if table.baseline is None else ()
    )
    if any(number.interval(entry) != NOTHING for entry in entries):
        yield grid(f"{title}: {interval} of the {middle}", number.interval, ())
    if table.baseline is not None:
        yield grid(f"{title}: less {_baseline(table)}, {interval}, p (t)", difference, notes)


def _title(entries: list[Entry]) -> str:
    over = f" over {_counted(entries[0].runs, 'run')}" if _same_runs(entries) else ""
    return f"{entries[0].measure.heading}{over}"


def _baseline(table: Table) -> str:
    return ", ".join(table.baseline or ())


def _notes(table: Table, entries: list[Entry]) -> Iterator[str]:
    """Yield what a reader must know to read the numbers right."""
    summaries, differences = (
        [entry.summary for entry in entries], [entry.difference for entry in entries if entry.difference],
    )  # fmt: skip
    if not entries[0].measure.rounds and any(0 < one.runs < MIN_RUNS for one in summaries):
        yield f"With one or two seeds no interval can be given: it takes {MIN_RUNS}."
    if any(one.diverged for one in summaries):
        yield "Runs that diverged are counted, and in no mean."
    if any(entry.time and entry.time.reached < entry.time.runs for entry in entries):
        yield "Runs that never reached the target count as slower than all; with them there is no mean difference."
    if (
        table.interval == "bootstrap"
        and not entries[0].measure.rounds
        and any(one.low is not None for one in summaries)
    ):
        yield "The intervals are bootstrapped (BCa)."
    if table.baseline is None:
        return
    sizes = {one.pairs for one in differences}
    if differences:
        tests = sum(one.p_t is not None or one.p_wilcoxon is not None for one in differences)
        pairs = f"{sizes.pop()} common seeds" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)} common seeds"
        adjusted = f"; p adjusted for {tests} comparisons (Holm)" if tests > 1 else ""
        yield f"Differences are seed by seed, over {pairs}{adjusted}."
    if lost := sum(one.lost for one in differences):
        yield f"{_counted(lost, 'pair')} left out, of which a run has no number."
    if any(one.pairs >= MIN_RUNS and one.p_t is None for one in differences):
        yield "A difference that is the same at every seed has no t test."
    smallest = min((one.pairs for one in differences if one.p_wilcoxon is not None), default=0)
    if 0 < smallest < 6:
        least = _p(2.0 ** (1 - smallest))
        yield f"Wilcoxon's p of {smallest} pairs cannot be less than {least}, whatever the difference."


@dataclass(frozen=True)
class _Numbers:
    """Write the numbers of a measure, all with the same decimals."""

    scale: float
    decimals: int

    @classmethod
    def of(cls, entries: list[Entry]) -> "_Numbers":
        """Take the decimals from the measure, or such that the smallest spread has two digits."""
        measure = entries[0].measure
        scale = 100.0 if measure.percent else 1.0
        if measure.decimals is not None:
            return cls(scale, measure.decimals)
        most = 2 if measure.percent else 1 if measure.rounds else MOST_DECIMALS
        spreads = [scale * one.summary.std for one in entries if one.summary.std]
        means = [abs(scale * one.summary.mean) for one in entries if one.summary.mean]
        if spreads:
            decimals = 1 - math.floor(math.log10(min(spreads)))
        elif all(mean.is_integer() for mean in means):
            decimals = most if measure.percent else 0
        else:
            decimals = 3 - math.floor(math.log10(max(means)))
        return cls(scale, min(max(decimals, 0), most))

    def cell(self, entry: Entry) -> str:
        """Return the mean and the standard deviation, or the median; and what ended otherwise."""
        summary, time = entry.summary, entry.time
        if time:
            return self._time(entry, time)
        ended = [f"{n} of {entry.runs} {how}" for n, how in
                 ((summary.diverged, "diverged"), (summary.missing, "without a number")) if n]  # fmt: skip
        if summary.mean is None:
            return ", ".join(ended) or NOTHING
        text = self._number(summary.mean)
        if summary.std is not None:
            text += f" ± {self._number(summary.std)}"
        return f"{text} ({', '.join(ended)})" if ended else text

    def interval(self, entry: Entry) -> str:
        """Return the interval of the mean, or of the median."""
        if entry.time:
            low, high = entry.time.low, entry.time.high
            return NOTHING if low is None else self._interval(low, high)
        return self._interval(entry.summary.low, entry.summary.high)

    def difference(self, entry: Entry) -> str:
        """Return the mean difference, with its sign."""
        if entry.difference is None or entry.difference.mean is None:
            return NOTHING
        return self._signed(entry.difference.mean)

    def difference_interval(self, entry: Entry) -> str:
        """Return the interval of the mean difference."""
        if entry.difference is None:
            return NOTHING
        return self._interval(entry.difference.low, entry.difference.high, signed=True)

    def _time(self, entry: Entry, time: TimeToTarget) -> str:
        if time.median is not None:
            text = self._number(time.median)
        else:
            text = NOTHING if time.last is None else f"> {time.last:,.0f}"
        said = [f"{time.reached} of {time.runs} reached"] if time.reached < time.runs else []
        said += [f"{entry.summary.diverged} diverged"] if entry.summary.diverged else []
        return f"{text} ({', '.join(said)})" if said else text

    def _interval(self, low: float | None, high: float | None, *, signed: bool = False) -> str:
        if low is None:
            return NOTHING
        show = self._signed if signed else self._number
        return f"[{show(low)}, ∞)" if high is None else f"[{show(low)}, {show(high)}]"

    def _number(self, value: float) -> str:
        return f"{self._rounded(value):,.{self.decimals}f}"

    def _signed(self, value: float) -> str:
        value = self._rounded(value)
        return f"{value:+,.{self.decimals}f}" if value else f"{0:.{self.decimals}f}"

    def _rounded(self, value: float) -> float:
        return round(self.scale * value, self.decimals) + 0.0  # no -0


def _p(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{math.floor(1000 * p + 0.5) / 1000:.3f}"  # 0.0625 up, as people round


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _same_runs(entries: list[Entry]) -> bool:
    return len({entry.runs for entry in entries}) == 1


def _short(names: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of dotted names, where these alone tell them apart."""
    last = [name.removesuffix(".name").rpartition(".")[2] for name in names]
    return tuple(one if last.count(one) == 1 else name for one, name in zip(last, names, strict=True))


def _in_width(grid: Grid, widest: float) -> Iterator[Grid]:
    """Yield the grid as several with fewer columns, which repeat the labels, if it is too wide for one."""
    widths = _widths(grid)
    left = sum(width + 3 for width in widths[: grid.labels]) + 1
    parts: list[list[int]] = [[]]
    for position in range(grid.labels, len(widths)):
        if parts[-1] and left + sum(widths[one] + 3 for one in [*parts[-1], position]) > widest:
            parts.append([])
        parts[-1].append(position)
    for part in parts:
        shown = [*range(grid.labels), *part]
        yield replace(
            grid,
            title=grid.title if part is parts[0] else f"{grid.title} (continued)",
            header=tuple(grid.header[one] for one in shown),
            lines=tuple(tuple(line[one] for one in shown) for line in grid.lines),
            notes=grid.notes if part is parts[-1] else (),
        )


def _widths(grid: Grid) -> list[int]:
    return [max(len(_markdown(text)) for text in column) for column in zip(grid.header, *grid.lines, strict=True)]


def _width(grid: Grid) -> int:
    return sum(width + 3 for width in _widths(grid)) + 1


def _as_markdown(grid: Grid) -> str:
    widths = [max(width, 3) for width in _widths(grid)]

    def line(texts: Sequence[str]) -> str:
        cells = [
            text.ljust(width) if position < grid.labels else text.rjust(width)
            for position, (text, width) in enumerate(zip(map(_markdown, texts), widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * width if position < grid.labels else f"{'-' * (width - 1)}:" for position, width in enumerate(widths)]
    table = [f"| {' | '.join(rule)} |", *map(line, grid.lines)]
    notes = (
        ["", *(line for note in grid.notes for line in textwrap.wrap(_markdown(note), WIDEST))] if grid.notes else []
    )
    return "\n".join([_markdown(grid.title), "", line(grid.header), *table, *notes])


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _as_latex(grid: Grid) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"    {' & '.join(map(_latex, texts))} \\\\"

    alignment = "l" * grid.labels + "r" * (len(grid.header) - grid.labels)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_latex(' '.join([f'{grid.title}.', *grid.notes]))}}}",
            f"  \\begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            line(grid.header),
            r"    \midrule",
            *map(line, grid.lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


LATEX: Mapping[str, str] = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "|": r"$\vert$",
    "[": "{[}",  # which after \\ would be a distance
    "]": "{]}",
}


def _latex(text: str) -> str:
    """Escape what LaTeX takes for more than a character, and write the sign of a negative number as a minus."""
    parts = re.split(r"((?<![\w.])-(?=\d))", text)
    return "".join("$-$" if part == "-" else "".join(LATEX.get(one, one) for one in part) for part in parts)
