"""What can be done with a study: check it, run what is missing, and show what is there."""

import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from fedpipe.data import datasets
from fedpipe.engines import MOST_WORKERS
from fedpipe.pipeline import DATASET
from fedpipe.studies import outputs
from fedpipe.studies.estimate import seconds_of
from fedpipe.studies.execution import Training, Workers, at_once, identity, partition_of, started, train
from fedpipe.studies.outputs import Results
from fedpipe.studies.plan import Plan, refuse
from fedpipe.studies.records import Missing, Record, Store
from fedpipe.studies.study import Study, folder_of, read_study
from fedpipe.system import console
from fedpipe.system.errors import UserError
from fedpipe.system.files import write_text

SCRATCH = Path(".fedpipe")  # in the project, unseen by git
PATIENCE = 5.0  # seconds in which the workers of a process that was killed have ended


@dataclass
class State:
    """A study and what is known of it."""

    path: Path
    study: Study
    plan: Plan
    store: Store
    data: str | None  # the data set that is here; None if there is none
    records: dict[str, Record]  # of runs of the plan, by key
    others: list[Record]  # of other parameters, data or code

    @property
    def ordered(self) -> list[Record]:
        """The records of the plan, in its order and with the names that it has now."""
        runs = [run for run in self.plan.runs(self.records) if run.key in self.records]
        return [replace(self.records[run.key], phase=run.phase, labels=run.labels, tuned=run.tuned) for run in runs]


def check_study(path: str | Path) -> list[str]:
    """Check a study as a whole, and return what there is to say of it: how many runs it has, and how long they take.

    Raises:
        UserError: a line for each mistake.
    """
    return _told(_opened(path, whole=True), None)


def run_study(
    path: str | Path, *, hours: float | None = None, workers: Workers | None = None, only: Collection[str] = ()
) -> Results:
    """Run what is missing of a study, write its results, and return them.

    Each finished run is kept at once: a study that was interrupted goes on when it is run again, and comes to the same.

    Args:
        path: of the study's file. It is run in the project's folder.
        hours: no run begins after this time; None runs all.
        workers: how many runs at the same time; None takes the study's compute.workers.
        only: the cells to run, by their settings, as in ``"iid, fedavg"``; none runs all.

    Raises:
        UserError: a line for each mistake in the study; or the data set is not here.
    """
    state = _opened(path, only, whole=True)
    if state.data is None:
        raise UserError(f"{DATASET}: no data set is there; `dvc repro download` gets it")
    for line in _told(state, workers):
        console.say(line)
    state.records = {key: record for key, record in state.records.items() if record.state != "failed"}
    if state.plan.missing(state.records):
        _run(state, state.data, hours, workers)
    complete = not state.plan.missing(state.records)
    state.store.write([*state.ordered, *([] if complete and not only else state.others)])
    return show_study(path)


def show_study(path: str | Path, *, say: Callable[[str], None] = console.say) -> Results:
    """Write a study's results anew from the runs that are recorded, without any run and without data, and return them.

    Args:
        path: of the study's file.
        say: told what is missing.

    Raises:
        UserError: a line for each mistake in the study; or nothing is recorded.
    """
    state, records, of_other_code = recorded(path, say)
    return outputs.write(state.study, records, folder_of(path), missing_of(state, of_other_code))


def missing_of(state: State, of_other_code: bool) -> Missing:
    """Return what of a study is not recorded, and what it would take by the runs so far."""
    missing, known = state.plan.missing(state.records), [*state.records.values(), *state.others]
    told = missing and any(record.state == "done" for record in known)
    seconds = seconds_of(missing, known, DATASET)[0] if told else None
    return Missing(len(missing), state.plan.total, seconds, of_other_code)


def recorded(path: str | Path, say: Callable[[str], None] = console.say) -> tuple[State, list[Record], bool]:
    """Return a study, the runs of it that count, and whether these were made with other parameters, data or code.

    Args:
        path: of the study's file.
        say: told what is missing.

    Raises:
        UserError: a line for each mistake in the study; or nothing is recorded.
    """
    state = _opened(path)
    records = [record for record in state.ordered if record.phase == "final"]
    missing = state.plan.missing(state.records)
    if missing:
        say(f"{path}: {len(missing):,} of {state.plan.total:,} runs are missing")
    if records:
        return state, records, False
    cells = [dict(cell.labels) for cell in state.plan.cells]
    of = [record for record in state.others if record.phase == "final" and record.labels in cells]
    records = list({(*record.labels.values(), record.seed): record for record in of}.values())
    if not records:
        raise UserError(f"{path}: no run that counts is recorded; `fedpipe study run {path}` makes them")
    say(f"{path}: what is shown was made with other parameters, data or code than those here")
    return state, records, True


def results_of(path: str | Path) -> tuple[Study, list[Record]]:
    """Return a study and the runs of it that count, also where its parameters do not go with the data that are here.

    Args:
        path: of the study's file.

    Raises:
        UserError: as `recorded`, and no run is recorded.
    """
    try:
        state, records, _ = recorded(path, say=lambda line: None)
        return state.study, records
    except UserError:
        study = read_study(path)
        found = [record for record in Store(folder_of(path), study).read().values() if record.phase == "final"]
        records = [one for one in found if all(one.labels[axis] in labels for axis, labels in study.axes.items())]
        if not records:
            raise
        return study, records


def workers_of(value: str | None) -> Workers | None:
    """Return the workers that a text on the command line means.

    Raises:
        UserError: it means none.
    """
    if value is None or value == "auto":
        return value
    if not value.isdecimal() or not 1 <= int(value) <= MOST_WORKERS:
        raise UserError(f"--workers: {value}: must be auto or a whole number from 1 to {MOST_WORKERS}")
    return int(value)


def _opened(path: str | Path, only: Collection[str] = (), *, whole: bool = False) -> State:
    """Return a study and what is known of it.

    Args:
        path: of its file.
        only: the cells to leave in; none leaves all.
        whole: whether the data set, if there is one, must do for it too.
    """
    path = Path(path)
    study = read_study(path)
    plan = Plan(study, path)
    if only:
        plan.only(only)
    store = Store(folder_of(path), study)
    recorded = store.read()
    data = None
    with suppress(UserError):
        data = datasets.describe(DATASET / "dataset.json")
    if whole and data:
        refuse(path, plan.mistakes_on(data.validation_examples))
    here = data and identity(data)
    usable = {key: record for key, record in recorded.items() if here in (None, record.data)}
    known = {run.key for run in plan.runs(usable)} & usable.keys()
    records = {key: usable[key] for key in known}
    return State(path, study, plan, store, here, records, [one for key, one in recorded.items() if key not in known])


def _told(state: State, workers: Workers | None) -> list[str]:
    """Say how many runs there are, how many of them are recorded, and how long the others will take."""
    study, plan, missing = state.study, state.plan, state.plan.missing(state.records)
    total, done = plan.total, plan.total - len(missing)
    counting = len(plan.cells) * len(study.seeds)
    tuning = f" and {total - counting:,} to tune" if total > counting else ""
    lines = [
        f"{state.path}: {total:,} runs: {len(plan.cells):,} cells with {len(study.seeds)} seeds{tuning}; "
        f"{done:,} recorded, {len(missing):,} missing"
    ]
    failed = sum(record.state == "failed" for record in state.records.values())
    if failed:
        lines.append(f"{failed:,} of those recorded failed, and are tried again")
    if state.others:
        lines.append(f"{len(state.others):,} more are recorded, of other parameters, data or code")
    if missing and state.data is None:
        lines.append(f"no estimate of the time: {DATASET} holds no data set; `dvc repro download` gets it")
    elif missing:
        number = min(at_once(missing, workers), len(missing))
        seconds, source = seconds_of(missing, state.records.values(), DATASET)
        lines.append(f"about {console.duration(seconds / number)} with {number} at a time: an estimate, {source}")
    return lines


def _run(state: State, data: str, hours: float | None, workers: Workers | None) -> None:
    """Run what is missing, wave by wave: which runs count is known when those that tune have ended."""
    until = time.time() + 3600 * hours if hours is not None else sys.float_info.max
    plan, records = state.plan, state.records
    missing = len(plan.missing(records))
    with _alone(state.path) as scratch, console.progress("runs", plan.total) as bar:
        state.store.write([*state.ordered, *state.others])
        bar.advance(plan.total - missing)
        job = Training(DATASET.resolve(), data, scratch.resolve(), until)
        while wave := [run for run in plan.runs(records) if run.key not in records]:
            named = {run.key: run for run in wave}
            partitions = {run.key: partition_of(run) for run in wave}
            with started(wave, workers, job) as (work, run_tasks):
                for record in train(wave, work, run_tasks, partitions):
                    records[record.key] = record
                    state.store.append(record, [*records.values(), *state.others])
                    bar.advance()
                    console.say(f"{named[record.key]}: {_result(record, state.study)}")
            if any(run.key not in records for run in wave):  # the time is over
                console.say(f"{len(plan.missing(records)):,} runs are left for another time")
                return


def _result(record: Record, study: Study) -> str:
    """Say in a few words what a run came to."""
    if record.state == "failed":
        return f"failed: {record.reason}"
    name, measure = study.deciding, study.measures[study.deciding]
    value = record.value(measure, on="validation" if record.phase == "tune" else "test")
    shown = "no value" if value is None else f"{value:.2%}" if measure.is_fraction else f"{value:,.4g}"
    return f"{name} {shown}{', diverged' if record.state == 'diverged' else ''}, {record.seconds:.1f} s"


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Give the block an empty folder of the study's own, which goes when the block ends.

    What is left there of a run that was killed goes first.

    Raises:
        UserError: another process runs the study.
    """
    SCRATCH.mkdir(exist_ok=True)
    if not (SCRATCH / ".gitignore").exists():
        write_text(SCRATCH / ".gitignore", "*\n")
    folder = SCRATCH / f"study-{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    with folder.with_suffix(".lock").open("w") as lock:
        end = time.monotonic() + PATIENCE
        while not _locked(lock):
            if time.monotonic() > end:
                raise UserError(f"{path}: another process runs it; wait until that has ended")
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
