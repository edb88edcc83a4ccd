"""The runs of a study, many at once: each is a task of an engine, and trains on one thread in a worker that stays."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedpipe import experiment
from fedpipe.data import datasets
from fedpipe.data.datasets import Description
from fedpipe.data.shards import write_shards
from fedpipe.data.store import open_store
from fedpipe.engines import Compute, RunTasks
from fedpipe.experiment import Experiment, FederatedData, Result
from fedpipe.fairness import spread
from fedpipe.federated.holdout import EvaluateHoldouts
from fedpipe.pipeline import Pipeline
from fedpipe.studies.plan import Run
from fedpipe.studies.records import Number, Record
from fedpipe.system.errors import UserError
from fedpipe.system.files import finite, scratch_folder
from fedpipe.system.machine import cores, one_thread_here

LEFT_OUT = (  # of a round: lists of clients, which explain a single round; and what follows from other columns
    "cohort", "dropped", "lost", "refused", "hostile", "update_cosine", "bytes_total",
)  # fmt: skip

Workers = int | Literal["auto"]


@dataclass(frozen=True)
class Task:
    """A run, for a worker."""

    run: Run
    partition: str  # the name of the folder with its clients' examples


@dataclass(frozen=True)
class Training:
    """Run trainings one after the other: an engine's job."""

    dataset: Path
    data: str  # what it is, as records name it
    partitions: Path  # a folder, where those that are not there yet are written
    until: float  # no run begins after this time, in seconds since 1970
    alone: bool = False  # whether a run has all workers that its parameters ask for, rather than one thread

    def __call__(self, shared: None, tasks: Iterable[Task]) -> list[Record]:
        return [self._record(task) for task in tasks if time.time() < self.until]

    def _record(self, task: Task) -> Record:
        run, begun = task.run, time.monotonic()
        state, reason, rounds, clients = "done", "", (), {}
        try:
            result, clients = self._train(run.pipeline, self.partitions / task.partition)
            rounds = tuple(map(_numbers, result.round_rows()))
            if result.state.diverged:
                state = "diverged"
        except UserError as error:
            state, reason = "failed", str(error)
        seconds = round(time.monotonic() - begun, 3)
        return Record(
            run.key, self.data, run.phase, run.labels, run.tuned, run.seed, state, reason, seconds, clients, rounds
        )

    def _train(self, pipeline: Pipeline, folder: Path) -> tuple[Result, dict[str, Number]]:
        compute = pipeline.compute
        if not self.alone:
            compute = compute.model_copy(update={"engine": "threads", "workers": 1})
        training = Experiment(seed=pipeline.seed, model=pipeline.model, federated=pipeline.federated, compute=compute)
        write_partition(folder, self.dataset, pipeline)
        result = experiment.run(training, FederatedData(self.dataset, folder))
        with one_thread_here():
            return result, _of_clients(result, training, folder) if pipeline.partition.holdout else {}


def train(runs: Sequence[Run], job: Training, run_tasks: RunTasks, partitions: Mapping[str, str]) -> Iterator[Record]:
    """Yield what runs came to, as they end.

    A partition is deleted when the last of these runs that needs it has ended.

    Args:
        runs: what is to run.
        job: how.
        run_tasks: what `started` yields.
        partitions: the name of each run's partition, by key.
    """
    left = Counter(partitions[run.key] for run in runs)
    for records in run_tasks(job, None, [Task(run, partitions[run.key]) for run in runs]):
        for record in records:
            partition = partitions[record.key]
            left[partition] -= 1
            if not left[partition]:
                shutil.rmtree(job.partitions / partition, ignore_errors=True)
            yield record


@contextmanager
def started(runs: Sequence[Run], workers: Workers | None, job: Training) -> Iterator[tuple[Training, RunTasks]]:
    """Start what runs these runs, and yield the job as it is done there, and what runs it.

    Where there are half as many runs as workers or fewer, one runs after the other, each with all workers that its
    parameters ask for. Else a worker trains a run on one thread.

    Args:
        runs: at least one, whose engine is used.
        workers: how many runs at the same time; None takes what the parameters say.
        job: how runs train.
    """
    number = at_once(runs, workers)
    if number == 1 or 2 * len(runs) <= number:
        yield replace(job, alone=True), _in_turn
    else:
        with _compute(runs, workers).start() as run_tasks:
            yield replace(job, alone=False), run_tasks


def at_once(runs: Sequence[Run], workers: Workers | None) -> int:
    """Return how many workers on this machine the same arguments ask for."""
    wanted = _compute(runs, workers).workers
    return cores() if wanted == "auto" else wanted


def _compute(runs: Sequence[Run], workers: Workers | None) -> Compute:
    compute = runs[0].pipeline.compute
    return compute if workers is None else compute.model_copy(update={"workers": workers})


def identity(description: Description) -> str:
    """Return what tells a data set from others: its name, and a hash of its examples and of their normalisation."""
    content = json.dumps([dict(description.sha256), vars(description.spec)], sort_keys=True)
    return f"{description.name} {hashlib.sha256(content.encode()).hexdigest()[:8]}"


def partition_of(run: Run) -> str:
    """Return the name of a run's partition, which runs share that divide the data alike."""
    content = json.dumps([run.seed, run.pipeline.partition.in_use()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_partition(folder: Path, dataset: Path, pipeline: Pipeline) -> None:
    """Write the clients' examples to a folder, unless they are there: another worker may do so at the same time."""
    if folder.exists():
        return
    with scratch_folder(folder.parent, folder.name) as scratch:
        classes = datasets.describe(dataset / "dataset.json").classes
        train = datasets.load(dataset / "train.safetensors")
        write_shards(scratch / "shards", train, classes, pipeline.partition, pipeline.seed)
        try:
            (scratch / "shards").rename(folder)
        except OSError:
            if not folder.exists():  # else another worker was faster
                raise


def _in_turn(job: Any, shared: Any, tasks: Sequence[Any], /) -> Iterator[Any]:
    """Run tasks in this process, one after the other: in the place of an engine."""
    for task in tasks:
        yield job(shared, [task])


def _numbers(row: Mapping[str, Any]) -> Mapping[str, Number]:
    """Return a round as rounds.csv keeps it."""
    return finite({name: value for name, value in row.items() if name not in LEFT_OUT})


def _of_clients(result: Result, training: Experiment, folder: Path) -> dict[str, Number]:
    """Return how good the last model is on the examples that clients hold out."""
    evaluate = EvaluateHoldouts(training.model.model.on(result.spec), folder, training.compute)
    reports = evaluate(result.state.parameters, range(len(open_store(folder))))
    accuracies = [report.accuracy for report in reports if report.accuracy is not None]
    over = spread(np.array(accuracies))
    return finite(
        {"clients_mean": over["mean"], "clients_worst_tenth": over["worst_tenth"], "clients_spread": over["std"]}
    )
