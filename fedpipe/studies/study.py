"""A study as a file: a question, the settings that it compares, the seeds, and what is measured and shown."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedpipe.config.file import read
from fedpipe.config.mistakes import known_keys, one_line
from fedpipe.config.section import PositiveInt, Section, Seed
from fedpipe.system.errors import ParameterError

COLUMNS = (  # of results.csv and runs.csv besides the axes
    "key", "data", "phase", "seed", "state", "reason", "seconds", "clients_mean", "clients_worst_tenth",
    "clients_spread", "measure", "value",
)  # fmt: skip
NOT_HERE = {  # parameters that a study cannot set, and why
    "seed": "`seeds` says with which seeds each cell runs",
    "download": "a study runs on the data set in data/dataset; set it in params.yaml, and run `dvc repro download`",
    "baseline": "a study trains no centralised baseline",
    "local": "a study trains no client alone",
    "compare": "a study makes comparisons of its own, from `tables`",
}


def _when(value: str) -> str:
    if not re.fullmatch(r"(last|round) [1-9][0-9]{0,8}", value):
        raise ValueError("must be `last N`, the last N evaluated rounds, or `round N`")
    return value


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("names a seed twice")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_different)]
When = Annotated[str, AfterValidator(_when)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Measure(Section):
    """Say what of a run is measured; one of these is given."""

    accuracy: When | None = Field(
        default=None,
        description="Test accuracy. `last 3` is the mean of the last three evaluations, `round 40` that after it. "
        "With validation data, the test set is used in the last round alone.",
    )
    loss: When | None = Field(default=None, description="Test loss, likewise.")
    rounds_to: Fraction | None = Field(
        default=None,
        description="Rounds until the accuracy reaches this, as in McMahan et al. 2017: on validation data if there "
        "are any, else on the test set.",
    )
    clients: Literal["mean", "worst tenth", "spread"] | None = Field(
        default=None,
        description="The last model's accuracy on the examples that clients hold out: its mean over all clients, its "
        "mean over the tenth of them where it is worst, or its standard deviation over clients.",
    )
    megabytes: Literal["down", "up", "both"] | None = Field(
        default=None, description="Millions of bytes that the server sent to clients, they to it, or both, in all."
    )
    backdoor: When | None = Field(
        default=None, description="Success rate of attackers' backdoor; `last` and `round` as for accuracy."
    )
    epsilon: Literal["pld", "rdp"] | None = Field(
        default=None,
        description="What the run cost in privacy: epsilon after the last round, by one of two accountants.",
    )
    seconds: Literal["run"] | None = Field(
        default=None, description="Seconds that the run took: other runs took their share of the machine meanwhile."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or self.of is None:
            raise ValueError(f"one measure is wanted, of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> str:
        """The field that is given."""
        [kind] = self.model_fields_set
        return kind

    @property
    def of(self) -> Any:
        """Its value."""
        return getattr(self, self.kind)

    @property
    def low_is_good(self) -> bool:
        """Whether a smaller value is a better one."""
        return (
            self.kind in ("loss", "rounds_to", "megabytes", "epsilon", "backdoor", "seconds")
            or self.clients == "spread"
        )

    @property
    def is_fraction(self) -> bool:
        """Whether people read it in percent."""
        return self.kind in ("accuracy", "clients", "backdoor")

    def in_words(self, evaluated_on: str) -> str:
        """Return what it is, for people.

        Args:
            evaluated_on: what rounds were evaluated on, test or validation data.
        """
        match self.kind:
            case "accuracy" | "loss" | "backdoor":
                word, number = when(self.of)
                last = "last evaluated round" if number == 1 else f"last {number} evaluated rounds, the mean"
                what = "success rate of the backdoor" if self.kind == "backdoor" else f"test {self.kind}"
                return f"{what} {f'after round {number}' if word == 'round' else f'in the {last}'}"
            case "epsilon":
                return f"epsilon after the last round, by the {self.of.upper()} accountant"
            case "rounds_to":
                return f"rounds until the {evaluated_on} accuracy is {self.of:.4g}"
            case "clients":
                what = {"mean": "mean over clients", "worst tenth": "mean over the worst tenth of clients"}
                return f"accuracy on clients' held-out examples, {what.get(self.of, 'standard deviation over clients')}"
            case "megabytes":
                return f"millions of bytes sent {'down and up' if self.of == 'both' else self.of}"
            case _:
                return "seconds that a run took"


class Tune(Section):
    """Choose parameters for each cell: those that are best on validation data, by other seeds than those that count."""

    grid: dict[str, list[Any]] = Field(
        description="Parameters and the values to choose from; all combinations are tried."
    )
    seeds: Seeds = Field(description="Seeds to choose by.")
    keep: PositiveInt | None = Field(
        default=None,
        description="After the first seed only this many combinations go on, the best. Of those that are tried with "
        "all seeds, the one whose worst seed is best is chosen. null keeps all.",
    )
    by: str | None = Field(
        default=None, description="The measure that decides, of accuracy, loss or rounds_to. null takes the first."
    )


class Table(Section):
    """Lay a table out."""

    rows: str = Field(description="The axis with a row for each setting.")
    columns: str | None = Field(
        default=None,
        description="The axis with a column for each setting. null makes one row of mean, interval and differences. "
        "Axes that are neither rows nor columns make further columns.",
    )
    measure: str | None = Field(default=None, description="What is shown; null shows each measure, in a table each.")
    baseline: str | None = Field(default=None, description="The row that others are compared with, seed by seed.")


class Figure(Section):
    """Lay a picture out: curves over rounds, or over what was sent."""

    over: Literal["rounds", "megabytes", "megabytes up", "megabytes down"] = Field(
        default="rounds", description="What curves run over; megabytes are those of both directions."
    )
    measure: Literal["accuracy", "loss", "epsilon"] = Field(
        default="accuracy",
        description="What curves show: accuracy or loss, on validation data if there are any, else on the test set; or "
        "epsilon, of the runs that have a mechanism of differential privacy.",
    )
    lines: str = Field(description="The axis with a line for each setting.")
    panels: str | None = Field(default=None, description="The axis with a panel for each setting; null draws one.")


class Study(Section):
    """Hold many experiments that answer one question."""

    question: str = Field(description="What the study answers, in a sentence; it heads the tables and figures.")
    base: dict[str, Any] = Field(
        default={}, description="Parameters of all runs that differ from params.yaml, by dotted path."
    )
    grid: dict[str, Any] = Field(
        description="The axes, whose product are the study's cells: a parameter with a list of values, or a name with "
        "named settings, each of which changes some parameters."
    )
    tune: Tune | None = Field(default=None, description="Parameters to choose for each cell.")
    seeds: Seeds = Field(description="Seeds of the runs that count, for each cell.")
    measures: dict[str, Measure] = Field(
        default={"accuracy": Measure(accuracy="last 1")}, min_length=1, description="What is measured, by name."
    )
    tables: list[Table] = Field(default=[], description="The tables of table.md and table.tex.")
    figures: list[Figure] = Field(default=[], description="The pictures in figures/.")

    @property
    def axes(self) -> dict[str, list[str]]:
        """The labels of each axis's settings, in order."""
        return {axis: list(settings) for axis, settings in self.settings.items()}

    @property
    def settings(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """What each setting of each axis changes, by axis and label."""
        return {
            axis: given if isinstance(given, dict) else {label(value): {axis: value} for value in given}
            for axis, given in self.grid.items()
        }

    @property
    def tuned(self) -> list[str]:
        """The parameters that are chosen for each cell."""
        return list(self.tune.grid) if self.tune else []

    @property
    def deciding(self) -> str:
        """The name of the measure by which tuning chooses."""
        return (self.tune and self.tune.by) or next(iter(self.measures))

    def combinations(self) -> list[dict[str, Any]]:
        """Return what tuning chooses from; one combination of nothing if there is nothing to choose."""
        grid = self.tune.grid if self.tune else {}
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

    def mistakes(self) -> Iterator[ParameterError]:
        """Yield what is wrong with the study by itself, whatever its parameters are."""
        found = [*_of_axes(self.grid), *_of_values("base", self.base)]
        if self.tune:
            for parameter, values in self.tune.grid.items():
                found += _of_list("tune.grid", parameter, values)
        yield from found
        if not found:  # else there are no settings to look at
            yield from self._of_parameters()
            yield from self._of_seeds()
            yield from self._of_names()

    def _of_parameters(self) -> Iterator[ParameterError]:
        varied: dict[str, str] = {}
        axes = {
            f"grid.{axis}": {name for setting in of.values() for name in setting} for axis, of in self.settings.items()
        }
        for where, parameters in {**axes, "tune.grid": set(self.tuned)}.items():
            for parameter in sorted(parameters):
                if parameter in varied:
                    yield ParameterError(where, f"{parameter} is varied by {varied[parameter]} too; one must do")
                varied[parameter] = where
        for parameter in [*self.base, *varied]:
            block = parameter.partition(".")[0]
            if block in NOT_HERE:
                yield ParameterError(varied.get(parameter, "base"), f"{parameter}: {NOT_HERE[block]}")

    def _of_seeds(self) -> Iterator[ParameterError]:
        if self.tune and (both := sorted({*self.seeds} & {*self.tune.seeds})):
            listed = ", ".join(map(str, both))
            yield ParameterError("tune.seeds", f"{listed}: among seeds too; seeds that choose must not count")

    def _of_names(self) -> Iterator[ParameterError]:
        axes = [*self.axes]
        for axis in {*axes} & {*COLUMNS}:
            yield ParameterError("grid", f"{axis}: a column of the results has this name; choose another one")
        if self.tune:
            yield from _unknown("tune.by", self.tune.by, self.measures)
            deciding = self.measures.get(self.deciding)
            if deciding and deciding.kind not in ("accuracy", "loss", "rounds_to"):
                yield ParameterError("tune.by", f"{self.deciding}: {deciding.kind} is not measured on validation data")
        for place, table in enumerate(self.tables):
            at = f"tables.{place}"
            yield from _unknown(f"{at}.rows", table.rows, axes)
            yield from _unknown(f"{at}.columns", table.columns, axes)
            yield from _unknown(f"{at}.measure", table.measure, self.measures)
            if table.rows == table.columns:
                yield ParameterError(f"{at}.columns", f"{table.rows}: these are the rows already")
            if table.rows in self.axes:
                yield from _unknown(f"{at}.baseline", table.baseline, self.axes[table.rows])
        for place, figure in enumerate(self.figures):
            at = f"figures.{place}"
            yield from _unknown(f"{at}.lines", figure.lines, axes)
            yield from _unknown(f"{at}.panels", figure.panels, axes)
            if figure.lines == figure.panels:
                yield ParameterError(f"{at}.panels", f"{figure.lines}: these are the lines already")


def read_study(path: str | Path) -> Study:
    """Read a study.

    Raises:
        UserError: the file cannot be read, or a line for each mistake in it.
    """
    return read(Study, path=path)


def folder_of(path: str | Path) -> Path:
    """Return the folder of a study's results: studies/NAME for studies/NAME.yaml."""
    return Path(path).with_suffix("")


def label(value: Any) -> str:
    """Return what a value is called in tables."""
    return value if isinstance(value, str) else json.dumps(value)


def when(measure: str) -> tuple[str, int]:
    """Return the word and the number of `last 3` or `round 40`."""
    word, _, number = measure.partition(" ")
    return word, int(number)


def _of_axes(grid: Mapping[str, Any]) -> Iterator[ParameterError]:
    for axis, given in grid.items():
        if isinstance(given, dict):
            if not given:
                yield ParameterError(f"grid.{axis}", "has no settings; name some")
            for name, setting in given.items():
                if not isinstance(setting, dict):
                    yield ParameterError(f"grid.{axis}.{name}", f"{_shown(setting)}: not parameters by dotted path")
                else:
                    yield from _of_values(f"grid.{axis}.{name}", setting)
        else:
            yield from _of_list("grid", axis, given)


def _of_list(at: str, parameter: str, values: Any) -> Iterator[ParameterError]:
    if not isinstance(values, list) or not values:
        yield ParameterError(f"{at}.{parameter}", f"{_shown(values)}: not a list of values, nor named settings")
    elif len({*map(label, values)}) < len(values):
        yield ParameterError(f"{at}.{parameter}", f"{_shown(values)}: names a value twice")
    else:
        for value in values:
            yield from _of_values(at, {parameter: value})


def _of_values(at: str, changes: Mapping[str, Any]) -> Iterator[ParameterError]:
    for parameter, value in changes.items():
        if isinstance(value, dict):
            inside = f"{parameter}.{next(iter(value), 'name')}"
            yield ParameterError(f"{at}.{parameter}", f"a block; name its parameters by dotted path, as in {inside}")


def _unknown(at: str, name: str | None, known: Collection[str]) -> Iterator[ParameterError]:
    if name is not None and name not in known:
        yield ParameterError(at, f"{one_line(name)}: unknown; {known_keys(name, known)}")


def _shown(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False))
