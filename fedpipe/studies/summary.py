"""What DVC's experiments came to over seeds, read from what `dvc exp show` knows: `fedpipe summary`."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import pandas as pd
from pydantic import ValidationError

from fedpipe.config.file import PARAMS, flat
from fedpipe.config.mistakes import known_keys
from fedpipe.pipeline import COMPUTE_OF_RESULTS, Pipeline
from fedpipe.studies.statistics import Interval
from fedpipe.studies.tables import Measure, Table, label, tabulate
from fedpipe.system.errors import UserError
from fedpipe.system.programs import output_of

WORKSPACE = "workspace"
SAMPLE = "sample"  # beside the parameters, whether this is MNIST's sample, since no mirror answered
ALL = "all experiments"  # the row if nothing but the seed differs
SEED = "seed"
ROUNDS_TO_TARGET = "to_target"  # which DVC does not show of a run that never reached it
CENTRALISED, LOCAL = "centralised", "local"  # the test accuracies of these trainings, as metrics
COUNTS = SEED, SAMPLE, "download", "model", "compute"  # of params.yaml, for any training's results
COUNTS_FOR = {  # of params.yaml besides, for a metric; any section for others
    **dict.fromkeys(["accuracy", "loss", "validation_accuracy", "validation_loss"], ("partition", "federated")),
    CENTRALISED: ("baseline",),
    **dict.fromkeys([LOCAL, "gain"], ("partition", "federated", "local")),
    "gap": ("partition", "federated", "baseline"),
    ROUNDS_TO_TARGET: ("partition", "federated", "compare"),
}
DIVERGES_WITH = {CENTRALISED: [CENTRALISED], "gap": ["accuracy", CENTRALISED], LOCAL: []}  # the others: accuracy


@dataclass(frozen=True)
class Run:
    """Hold one run of the pipeline, as DVC recorded it."""

    name: str  # of the experiment, the branch or the commit
    parameters: Mapping[str, Any]  # by dotted path; of those that are chosen between, the chosen ones
    unused: frozenset[str]  # the dotted paths of the others
    metrics: Mapping[str, Any]  # by dotted path
    when: str  # it was made; later ones sort last
    experiment: bool  # rather than a commit or the workspace


@dataclass(frozen=True)
class Experiments:
    """Hold the runs that ended, and what else DVC showed."""

    runs: tuple[Run, ...]
    others: Mapping[str, int] = field(default_factory=dict)  # how many there are of each: queued, failed, ...
    stale: bool = False  # the workspace has results of other parameters than it has now


@dataclass(frozen=True)
class Overview:
    """Hold a table of experiments over seeds, and what a reader should know of them."""

    table: Table
    remarks: tuple[str, ...]


def read(*, all_branches: bool = False, all_commits: bool = False) -> Experiments:
    """Return the experiments of the project in the current folder.

    Args:
        all_branches: those of every branch, and the branches themselves.
        all_commits: those of every commit, and the commits themselves.

    Raises:
        UserError: DVC cannot show them, as outside of a project.
    """
    options = [*(["--all-branches"] if all_branches else []), *(["--all-commits"] if all_commits else [])]
    return experiments(json.loads(_dvc("exp", "show", "--json", *options)), _is_up_to_date)


def experiments(shown: Sequence[Mapping[str, Any]], is_up_to_date: Callable[[], bool]) -> Experiments:
    """Return the runs among what DVC showed, each once.

    Args:
        shown: what `dvc exp show --json` prints.
        is_up_to_date: tells whether the workspace's results are those of its parameters. It is asked only if they are
            nobody else's.
    """
    others: Counter[str] = Counter()
    runs: dict[str, Run] = {}
    workspace: Run | None = None
    for commit in shown:
        for entry in [commit, *(one["revs"][0] | {"state": _state(one)} for one in commit["experiments"] or [])]:
            state = entry.get("state", "success")
            if state != "success":
                others[state] += 1
            elif entry["error"] or not entry["data"]:
                others["that cannot be read"] += 1
            elif entry["rev"] == WORKSPACE:
                workspace = _run(entry, experiment=False)
            else:
                runs.setdefault(entry["rev"], _run(entry, experiment="state" in entry))
    found, stale = list(runs.values()), False
    if workspace and workspace.metrics and not any(_are_equal(workspace, run) for run in found):
        stale = not is_up_to_date()
        if not stale:
            found.append(workspace)
    return Experiments(tuple(found), others, stale)


def overview(
    found: Experiments,
    *,
    by: Sequence[str] = (),
    measures: Sequence[str] = ("accuracy",),
    baseline: str | None = None,
    where: Mapping[str, str] | None = None,
    commits: bool = False,
    interval: Interval = "t",
) -> Overview:
    """Return a table of the experiments over seeds.

    Args:
        found: the experiments.
        by: the parameters that tell groups of runs apart. Left out, those that differ between the runs, besides the
            seed and what the measures do not depend on.
        measures: names of metrics.
        baseline: labels of the row that the others are compared with, joined by commas, as many as tell it from others.
        where: values that parameters must have, as they are shown, for a run to count.
        commits: count every commit too. Without it, a commit and the workspace count only if they have the parameters
            of an experiment, with another seed, or if there is no experiment.
        interval: as in `fedpipe.studies.statistics.summarise`.

    Raises:
        UserError: there is nothing to summarise, or what it is asked by is not there.
    """
    runs = [run for run in found.runs if run.metrics]
    if not runs:
        raise UserError(
            ". ".join(["no experiments yet; `dvc exp run -S seed=1` makes one", *_others(found)]).rstrip(".")
        )
    remarks = list(_others(found))
    for name in [*by, *(where or {})]:
        _require_parameter(name, runs)
    for name, value in (where or {}).items():
        runs = [run for run in runs if label(run.parameters.get(name)) == value] or _nothing_where(name, value, runs)
    for name in measures:
        _require_measure(name, runs)
    sections = _sections(measures)
    runs = [_only(run, sections) for run in runs]
    if not commits:
        runs, left_out = _without_odd_commits(runs)
        if left_out:
            remarks.append(
                f"Not counted: {', '.join(left_out)}, since no experiment has the same parameters; --all-branches "
                "counts commits too."
            )
    runs, repeated = _newest(runs, measures)
    if repeated:
        remarks.append(
            f"Not counted: {', '.join(repeated)}, since a newer run has the same parameters and seed, and other "
            "results: of other code, data or another machine."
        )
    names = list(by) or _telling(runs)
    runs.sort(key=lambda run: [_natural(run.parameters.get(name)) for name in [*names, SEED]])
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(label(run.parameters.get(name)) for name in names), []).append(run)
    remarks += _mixed(groups, names)
    rows, columns = (names[:1], names[1:]) if _is_full(groups) else (names, [])
    frame = pd.DataFrame(_records(runs, names, measures))
    if not names:
        rows, frame["runs"] = ["runs"], ALL
    labels = dict.fromkeys(tuple(map(str, row)) for row in frame[rows].to_numpy().tolist())
    table = tabulate(
        frame,
        rows=rows,
        columns=columns,
        measures=[_measure(name) for name in measures],
        baseline=None if baseline is None else _baseline(baseline, rows, labels),
        interval=interval,
    )
    return Overview(table, tuple(remarks))


def _natural(value: object) -> tuple[bool, float, str]:
    """Return what sorts numbers by their size, before text."""
    return (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, label(value))


def _dvc(*arguments: str) -> str:
    return output_of([sys.executable, "-m", "dvc"], *arguments)


def _is_up_to_date() -> bool:
    return json.loads(_dvc("status", "--json")) == {}


def _state(experiment: Mapping[str, Any]) -> str:
    return (experiment.get("executor") or {}).get("state") or "success"


def _run(entry: Mapping[str, Any], *, experiment: bool) -> Run:
    data = entry["data"]
    given = _data_of(data["params"].get(str(PARAMS), {}))
    metrics: dict[str, Any] = {}
    for file in data["metrics"].values():
        metrics |= flat(_data_of(file))
    parameters = {name: value for name, value in flat(_in_use(given)).items() if _counts(name)}
    return Run(
        name=entry["name"] or (WORKSPACE if entry["rev"] == WORKSPACE else entry["rev"][:7]),
        parameters={**parameters, SAMPLE: metrics.get(SAMPLE)},
        unused=frozenset(flat(given).keys() - parameters.keys()),
        metrics=metrics,
        when=data["timestamp"] or "newest",  # the workspace's; letters sort after digits
        experiment=experiment,
    )


def _counts(parameter: str) -> bool:
    """Tell whether any result depends on a parameter."""
    section, _, name = parameter.partition(".")
    return parameter != "download.retries" and (section != "compute" or name in COMPUTE_OF_RESULTS)


def _data_of(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return what DVC read from a file; nothing if it could not."""
    data = file.get("data")
    return data if isinstance(data, dict) else {}


def _in_use(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that count, with today's defaults for any that an older params.yaml does not have."""
    try:
        return Pipeline.model_validate_json(json.dumps(given)).in_use()
    except (ValidationError, UserError):  # of another version, or with a class that is no longer there
        return given


def _are_equal(one: Run, other: Run) -> bool:
    return one.parameters == other.parameters and one.metrics == other.metrics


def _others(found: Experiments) -> Iterator[str]:
    """Yield what is to be said of what is not counted."""
    if found.others:
        yield f"Not counted: {', '.join(f'{number} {state}' for state, number in found.others.items())}."
    if found.stale:
        yield "Not counted: the workspace, whose results are not those of its parameters; `dvc repro` makes them."


def _require_parameter(name: str, runs: Sequence[Run]) -> None:
    used = {one for run in runs for one in run.parameters}
    if name not in used | {one for run in runs for one in run.unused}:
        near = get_close_matches(name, sorted(used), n=1, cutoff=0.5)
        ending = [one for one in sorted(used) if one.endswith(f".{name}")]
        meant = (ending or near)[:1]
        raise UserError(
            f"{name}: no parameter of these experiments; "
            f"{f'did you mean {meant[0]}? ' if meant else ''}`fedpipe params` prints all"
        )


def _nothing_where(name: str, value: str, runs: Sequence[Run]) -> list[Run]:
    there = dict.fromkeys(map(label, sorted((run.parameters.get(name) for run in runs), key=_natural)))
    raise UserError(f"{name}={value}: no experiment has this; they have {', '.join(there)}")


def _require_measure(name: str, runs: Sequence[Run]) -> None:
    known = dict.fromkeys(
        key for run in runs for key, value in run.metrics.items() if _is_number(value) or value is None
    )
    if name not in {*known, *COUNTS_FOR}:  # DVC shows no metric that has no value in any run
        raise UserError(f"{name}: no metric of these experiments; {known_keys(name, list(known))}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sections(measures: Iterable[str]) -> set[str] | None:
    """Return the sections of params.yaml that measures depend on; None if it may be any."""
    names = list(measures)
    if any(name not in COUNTS_FOR for name in names):
        return None
    return {*COUNTS, *(one for name in names for one in COUNTS_FOR[name])}


def _only(run: Run, sections: set[str] | None) -> Run:
    """Return the run with those of its parameters that are in the sections."""
    if sections is None:
        return run
    kept = {name: value for name, value in run.parameters.items() if name.partition(".")[0] in sections}
    return replace(run, parameters=kept, unused=run.unused | (run.parameters.keys() - kept.keys()))


def _but_seed(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.parameters.items() if name != SEED}


def _without_odd_commits(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return the experiments and the commits that are one more seed of one, and the names of the other commits."""
    there = [_but_seed(run) for run in runs if run.experiment]
    kept = [run for run in runs if run.experiment or not there or _but_seed(run) in there]
    return kept, [run.name for run in runs if run not in kept]


def _newest(runs: list[Run], measures: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return each run once, the newest of those with equal parameters, and the names of those with other results."""
    kept: list[Run] = []
    repeated = []
    for run in sorted(runs, key=lambda run: run.when, reverse=True):
        same = next((one for one in kept if one.parameters == run.parameters), None)
        if same is None:
            kept.append(run)
        elif any(_value(run, name) != _value(same, name) for name in measures):
            repeated.append(run.name)
    return [run for run in runs if run in kept], repeated


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the parameters besides the seed that differ between runs."""
    names = dict.fromkeys(name for run in runs for name in _but_seed(run))
    return [name for name in names if len({label(run.parameters.get(name)) for run in runs}) > 1]


def _telling(runs: Sequence[Run]) -> list[str]:
    """Return the parameters that tell groups apart.

    Those of an entry that is not always chosen, such as a strategy's, are left out if they follow from the choice.
    """
    names = _differing(runs)
    for name in list(names):
        others = [one for one in names if one != name]
        if any(name not in run.parameters for run in runs) and _groups(runs, others) == _groups(runs, names):
            names = others
    return names


def _groups(runs: Sequence[Run], names: Sequence[str]) -> list[list[int]]:
    """Return the positions of the runs with equal parameters of these names."""
    groups: dict[str, list[int]] = {}
    for position, labels in enumerate(_labels(runs, names)):
        groups.setdefault(labels, []).append(position)
    return list(groups.values())


def _mixed(groups: Mapping[tuple[str, ...], list[Run]], by: Sequence[str]) -> Iterator[str]:
    """Yield a line for each group whose runs differ in more than their seed.

    Raises:
        UserError: some of its runs have one seed, so that they cannot be told apart.
    """
    for labels, runs in groups.items():
        if names := _differing(runs):
            group = ", ".join(labels) or ALL
            told = "; ".join(f"{one}: {', '.join(dict.fromkeys(_labels(runs, [one])))}" for one in names)
            if len({run.parameters.get(SEED) for run in runs}) < len(runs):
                raise UserError(
                    f"{group}: several runs with one seed differ in {told}; try --by {','.join([*by, *names])}, or "
                    f"--where {names[0]}={label(runs[0].parameters.get(names[0]))}"
                )
            yield f"{group}: a mean over different things, since its runs also differ in {told}."


def _labels(runs: Iterable[Run], names: Sequence[str]) -> list[str]:
    return [", ".join(label(run.parameters.get(name)) for name in names) for run in runs]


def _is_full(groups: Iterable[tuple[str, ...]]) -> bool:
    """Tell whether there is every combination of the first label and the others: then these make columns."""
    pairs = {(labels[0], labels[1:]) for labels in groups if labels}
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    return len(rows) > 1 and len(columns) > 1 and len(pairs) == len(rows) * len(columns)


def _records(runs: Iterable[Run], names: Sequence[str], measures: Sequence[str]) -> Iterator[dict[str, Any]]:
    for run in runs:
        for measure in measures:
            yield {
                **{name: label(run.parameters.get(name)) for name in names},
                "measure": measure,
                "seed": run.parameters.get(SEED, 0),
                "value": _value(run, measure),
                "diverged": _diverged(run, measure),
                "last": _last(run),
            }


def _last(run: Run) -> float:
    """Return the round until which a run without rounds to a target is known not to have reached it.

    Where patience may have ended it, the round is not known; then it has given up, and would never have reached it.
    """
    if run.parameters.get("federated.patience") is not None:
        return math.inf
    return run.parameters.get("federated.rounds", math.nan)


def _value(run: Run, measure: str) -> float | None:
    value = run.metrics.get(measure)
    return float(value) if value is not None and _is_number(value) else None


def _diverged(run: Run, measure: str) -> bool:
    """Tell whether a training that a measure is of diverged: DVC then shows no accuracy of it.

    A run that does not know the metric, as one of an older version, is without a number.
    """
    trainings = DIVERGES_WITH.get(measure, ("accuracy",))
    return SAMPLE in run.metrics and any(run.metrics.get(training) is None for training in trainings)


def _measure(name: str) -> Measure:
    percent = name.endswith("accuracy") or name in (CENTRALISED, LOCAL)
    return Measure(name, percent=percent, rounds=name == ROUNDS_TO_TARGET)


def _baseline(given: str, rows: Sequence[str], labels: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the labels of the one row that has all that are given.

    Args:
        given: labels, joined by commas.
        rows: what the labels mean.
        labels: of all rows.

    Raises:
        UserError: none has, or several have.
    """
    wanted = [one.strip() for one in given.split(",")]
    found = [row for row in labels if all(one in row for one in wanted)]
    if len(found) != 1:
        how = "several rows have" if found else "no row has"
        there = "; ".join(", ".join(row) for row in found or labels)
        raise UserError(f"--baseline {given}: {how} this; of {', '.join(rows)} there is: {there}")
    return found[0]
