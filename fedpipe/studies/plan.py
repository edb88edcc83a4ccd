"""Which runs a study consists of: the product of its axes, what tuning tries and chooses, and the seeds."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fedpipe.config import mistakes as explanations
from fedpipe.config.file import PARAMS, load, parse, read
from fedpipe.pipeline import Pipeline, inputs, mistakes
from fedpipe.studies.records import Record
from fedpipe.studies.study import Study, label, when
from fedpipe.system.errors import ParameterError, UserError

STAGES = "partition", "federated"  # whose parameters and code a run's result follows from
KEY = 16  # hexadecimal digits


@dataclass(frozen=True, eq=False)
class Cell:
    """A setting of each axis."""

    labels: Mapping[str, str]  # by axis
    changes: Mapping[str, Any]  # of parameters

    def __str__(self) -> str:
        return ", ".join(self.labels.values())


@dataclass(frozen=True)
class Candidate:
    """A cell with values for the parameters that are tuned; with a seed it is a run."""

    cell: Cell
    tuned: Mapping[str, Any]
    pipeline: Pipeline
    follows_from: str  # a hash of all that its results follow from but the seed and the data set

    def run(self, phase: Literal["tune", "final"], seed: int) -> "Run":
        key = hashlib.sha256(f"{seed} {self.follows_from}".encode()).hexdigest()[:KEY]
        return Run(key, phase, self, seed)


@dataclass(frozen=True)
class Run:
    """A training of a study."""

    key: str  # of all that its result follows from but the data set
    phase: Literal["tune", "final"]
    candidate: Candidate
    seed: int

    @property
    def labels(self) -> Mapping[str, str]:
        return self.candidate.cell.labels

    @property
    def tuned(self) -> dict[str, str]:
        return {name: label(value) for name, value in self.candidate.tuned.items()}

    @property
    def pipeline(self) -> Pipeline:
        """All parameters."""
        return self.candidate.pipeline.model_copy(update={"seed": self.seed})

    def __str__(self) -> str:
        tuned = [f"{name.rpartition('.')[2]} {value}" for name, value in self.tuned.items()]
        return ", ".join([*filter(None, [str(self.candidate.cell)]), *tuned, f"seed {self.seed}"])


class Plan:
    """The runs of a study, as far as they are known: which values count is known only when tuning is through.

    Args:
        study: the study.
        name: of its file, for messages.
        params: the file of the parameters that the study does not set.

    Raises:
        UserError: a line for each mistake in the study, or in the parameters of a cell.
    """

    def __init__(self, study: Study, name: str | Path, params: str | Path = PARAMS) -> None:
        self.study = study
        refuse(name, study.mistakes())
        read(Pipeline, path=params)  # says what is wrong with it
        values = load(params)
        found: dict[str, list[str]] = {}  # mistakes, and the cells that have them
        self.cells: dict[Cell, list[Candidate]] = {}  # with different candidates, of which one will count
        for cell in _cells(study):
            candidates: dict[str, Candidate] = {}
            for tuned in study.combinations():
                pipeline, problems = _pipeline(values, {**study.base, **cell.changes, **tuned})
                if pipeline:
                    problems += map(str, _of_measures(study, pipeline))
                    origin = _origin(pipeline)
                    candidates.setdefault(origin, Candidate(cell, tuned, pipeline, origin))
                for problem in problems:
                    if str(cell) not in found.setdefault(problem, []):
                        found[problem].append(str(cell))
            self.cells[cell] = list(candidates.values())
        cells = len(self.cells)
        refuse(name, (f"{_among(of, cells)}{problem}" for problem, of in found.items()))
        refuse(name, _duplicates(self.cells))

    @property
    def total(self) -> int:
        """How many runs there are."""
        return sum(map(self._total_of, self.cells.values()))

    def mistakes_on(self, validation_examples: int) -> Iterator[ParameterError]:
        """Yield what cannot be tuned or measured on a data set with so many examples for validation."""
        if not validation_examples and any(len(of) > 1 for of in self.cells.values()):
            yield ParameterError(
                "tune",
                "the data set has no validation data to choose by; `dvc exp run -S download.validation=0.1 download` "
                "sets a part of the training data aside",
            )
        rounds = {candidate.pipeline.federated.rounds for of in self.cells.values() for candidate in of}
        for name, measure in self.study.measures.items():
            if validation_examples and measure.kind in ("accuracy", "loss", "backdoor"):
                word, number = when(measure.of)
                if {number} != ({1} if word == "last" else rounds):
                    at, why = f"measures.{name}.{measure.kind}", "with validation data, the test set is used once"
                    yield ParameterError(at, f"{measure.of}: {why}, in the last round; last 1 would do")

    def only(self, cells: Iterable[str]) -> None:
        """Leave out all cells but these.

        Raises:
            UserError: there is no such cell.
        """
        known, wanted = [str(cell) for cell in self.cells], list(cells)
        for cell in wanted:
            if cell not in known:
                near = difflib.get_close_matches(cell, known, n=1)
                raise UserError(
                    f'{cell}: no cell of the study; {"did you mean" if near else "one is"} "{[*near, *known][0]}"?'
                )
        self.cells = {cell: of for cell, of in self.cells.items() if str(cell) in wanted}

    def runs(self, records: Mapping[str, Record]) -> list[Run]:
        """Return the runs that are known by now, in order: those that tune, then, seed by seed, those that count.

        Args:
            records: what is known of runs, by key.
        """
        study, known = self.study, [run for of in self.cells.values() for run in self._of(of, records)]
        seeds = [*(study.tune.seeds if study.tune else ()), *study.seeds]
        return sorted(known, key=lambda run: (run.phase == "final", seeds.index(run.seed)))  # stable

    def missing(self, records: Mapping[str, Record]) -> list[Run]:
        """Return as many runs as are not recorded; for those that tuning has yet to decide, others of their cell."""
        missing: list[Run] = []
        for candidates in self.cells.values():
            known = list(self._of(candidates, records))
            later = candidates[0].run("final", self.study.seeds[0])
            missing += [run for run in known if run.key not in records]
            missing += [later] * (self._total_of(candidates) - len(known))
        return missing

    def _total_of(self, candidates: list[Candidate]) -> int:
        tune, number = self.study.tune, len(candidates)
        if not tune or number == 1:
            return len(self.study.seeds)
        kept = min(tune.keep or number, number)
        return number + kept * (len(tune.seeds) - 1) + len(self.study.seeds)

    def _of(self, candidates: list[Candidate], records: Mapping[str, Record]) -> Iterator[Run]:
        """Yield the runs of a cell."""
        tune = self.study.tune
        if tune and len(candidates) > 1:
            first = [one.run("tune", tune.seeds[0]) for one in candidates]
            yield from first
            if any(run.key not in records for run in first):
                return
            kept = [run.candidate for run in self._ranked([[run] for run in first], records)[: tune.keep]]
            kept.sort(key=candidates.index)
            tried = [[one.run("tune", seed) for seed in tune.seeds] for one in kept]
            yield from (run for runs in tried for run in runs[1:])
            if any(run.key not in records for runs in tried for run in runs):
                return
            candidates = [run.candidate for run in self._ranked(tried, records)]
        yield from (candidates[0].run("final", seed) for seed in self.study.seeds)

    def _ranked(self, tried: list[list[Run]], records: Mapping[str, Record]) -> list[Run]:
        """Return a run of each candidate, that whose worst one is best first; of equal ones, that listed first."""
        measure = self.study.measures[self.study.deciding]

        def score(run: Run) -> float:
            record = records[run.key]
            value = record.value(measure, on="validation") if record.state == "done" else None
            if value is None or value != value:
                return float("-inf")
            return -value if measure.low_is_good else value

        return [runs[0] for runs in sorted(tried, key=lambda runs: min(map(score, runs)), reverse=True)]


def _cells(study: Study) -> list[Cell]:
    """Return the product of the axes, the first axis slowest."""
    cells = [Cell({}, {})]
    for axis, settings in study.settings.items():
        cells = [
            Cell({**cell.labels, axis: name}, {**cell.changes, **changes})
            for cell in cells
            for name, changes in settings.items()
        ]
    return cells


def _pipeline(values: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[Pipeline | None, list[str]]:
    """Return all parameters with these changes, or what is wrong with them, a line each."""
    changed = deepcopy(dict(values))
    for path, value in changes.items():
        *blocks, last = path.split(".")
        block = changed
        for name in blocks:
            block = block.setdefault(name, {})
            if not isinstance(block, dict):
                return None, [f"{path}: unknown parameter; {name} is a parameter, not a block of them"]
        block[last] = value
    try:
        pipeline = parse(Pipeline, changed)
    except ValidationError as error:
        return None, list(explanations.mistakes(error, Pipeline))
    return pipeline, list(map(str, mistakes(pipeline)))


def _origin(pipeline: Pipeline) -> str:
    """Return a hash of all that a run's result follows from, but the seed and the data set."""
    follows_from = inputs(pipeline.model_copy(update={"seed": 0}))
    content = json.dumps({stage: follows_from[stage] for stage in STAGES}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _of_measures(study: Study, pipeline: Pipeline) -> Iterator[ParameterError]:
    """Yield the measures that runs with these parameters cannot have."""
    federated = pipeline.federated
    rounds, every = federated.rounds, federated.evaluate_every
    evaluated = sorted({*range(every, rounds + 1, every), rounds})
    for name, measure in study.measures.items():
        at = f"measures.{name}.{measure.kind}"
        if measure.kind in ("accuracy", "loss", "backdoor"):
            word, number = when(measure.of)
            if word == "last" and number > len(evaluated):
                yield ParameterError(at, f"{measure.of}: a run of {rounds} rounds has {len(evaluated)} evaluations")
            if word == "round" and number not in evaluated:
                yield ParameterError(
                    at, f"{measure.of}: not evaluated, with federated.rounds {rounds} and evaluate_every {every}"
                )
        if measure.kind == "clients" and not pipeline.partition.holdout:
            yield ParameterError(at, "no client holds examples out; partition.holdout: 0.2 would do")


def _duplicates(cells: Mapping[Cell, list[Candidate]]) -> Iterator[str]:
    seen: dict[str, Cell] = {}
    for cell, candidates in cells.items():
        for candidate in candidates:
            first = seen.setdefault(candidate.follows_from, cell)
            if first != cell:
                yield f"grid: {cell}: the same runs as {first}, whatever the parameters that differ are set to"
                break


def _among(cells: list[str], number: int) -> str:
    """Say which cells have a mistake; nothing if all have it."""
    if len(cells) == number:
        return ""
    return f"{cells[0]}{f' and {len(cells) - 1} more cells' if len(cells) > 1 else ''}: "


def refuse(name: str | Path, found: Iterable[object]) -> None:
    """Raise what is wrong with a study, a line each, if anything is."""
    lines = [f"{name}: {mistake}" for mistake in found]
    if lines:
        raise UserError("\n".join(lines))
