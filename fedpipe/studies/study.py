"""A study as a file: a question, the settings that it compares, the seeds, and what is measured and shown."""

import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedpipe.config.file import read
from fedpipe.config.section import PositiveInt, Section, Seed

MEASURES = "measures"  # in the place of an axis: a row or column for each measure

Changes = Annotated[dict[str, Any], AfterValidator(lambda value: _changes(value))]
Grid = Annotated[dict[str, Any], AfterValidator(lambda value: _grid(value))]
Values = Annotated[dict[str, Any], AfterValidator(lambda value: _values(value))]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(lambda value: _different(value))]
When = Annotated[str, AfterValidator(lambda value: _when(value))]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Measure(Section):
    """Say what of a run is measured; one of these is given."""

    accuracy: When | None = Field(
        default=None,
        description="Test accuracy. `last 3` is its mean over the last three evaluated rounds, `round 40` that round's.",
    )
    loss: When | None = Field(default=None, description="Test loss, likewise.")
    rounds_to: Fraction | None = Field(
        default=None, description="Rounds until the test accuracy reaches this, as in McMahan et al. 2017."
    )
    clients: Literal["mean", "worst tenth", "spread"] | None = Field(
        default=None,
        description="The last model's accuracy on the examples that clients hold out: its mean over all clients, its "
        "mean over the tenth of them where it is worst, or its standard deviation over clients.",
    )
    megabytes: Literal["down", "up", "both"] | None = Field(
        default=None, description="Millions of bytes that the server sent to clients, they to it, or both, in all."
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
        return self.kind in ("loss", "rounds_to", "megabytes", "seconds") or self.clients == "spread"

    @property
    def is_fraction(self) -> bool:
        """Whether people read it in percent."""
        return self.kind in ("accuracy", "clients")


class Tune(Section):
    """Choose parameters for each cell: those that are best on validation data, by other seeds than those that count."""

    grid: Values = Field(description="Parameters and the values to choose from; all combinations are tried.")
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

    rows: str = Field(description=f"The axis with a row for each setting, or {MEASURES}.")
    columns: str | None = Field(
        default=None, description=f"The axis with a column for each setting, or {MEASURES}; null makes one column."
    )
    measure: str | None = Field(default=None, description="What is shown; null shows the first measure.")
    baseline: str | None = Field(default=None, description="The row that others are compared with, seed by seed.")


class Figure(Section):
    """Lay a picture out: curves over rounds, or over what was sent."""

    over: Literal["rounds", "megabytes"] = Field(default="rounds", description="What curves run over.")
    measure: Literal["accuracy", "loss"] = Field(default="accuracy", description="What curves show.")
    lines: str = Field(description="The axis with a line for each setting.")
    panels: str | None = Field(default=None, description="The axis with a panel for each setting; null draws one.")


class Study(Section):
    """Hold many experiments that answer one question."""

    question: str = Field(description="What the study answers, in a sentence; it heads the tables and figures.")
    base: Changes = Field(default={}, description="Parameters of all runs that differ from params.yaml, by dotted path.")
    grid: Grid = Field(
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

    def combinations(self) -> list[dict[str, Any]]:
        """Return what tuning chooses from; one combination of nothing if there is nothing to choose."""
        grid = self.tune.grid if self.tune else {}
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


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


def _when(value: str) -> str:
    if not re.fullmatch(r"(last|round) [1-9][0-9]{0,8}", value):
        raise ValueError("must be `last N`, the last N evaluated rounds, or `round N`")
    return value


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("names a seed twice")
    return seeds


def _changes(value: dict[str, Any]) -> dict[str, Any]:
    for parameter, given in value.items():
        if isinstance(given, dict):
            raise ValueError(f"{parameter} is a block; name its parameters by dotted path, such as {parameter}.name")
    return value


def _values(value: dict[str, Any]) -> dict[str, Any]:
    for parameter, given in value.items():
        if not isinstance(given, list) or not given:
            raise ValueError(f"{parameter} wants a list of values")
        if len({label(one) for one in given}) < len(given):
            raise ValueError(f"{parameter} names a value twice")
        for one in given:
            _changes({parameter: one})
    return value


def _grid(value: dict[str, Any]) -> dict[str, Any]:
    for axis, given in value.items():
        if not isinstance(given, dict):
            _values({axis: given})
        elif not given:
            raise ValueError(f"{axis} has no settings")
        else:
            for name, setting in given.items():
                if not isinstance(setting, dict):
                    raise ValueError(f"{axis}: {name} wants the parameters that it changes, by dotted path")
                _changes(setting)
    return value
