"""How long the runs of a study will take: by runs like them that are recorded, else by a short trial here."""

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from fedpipe import experiment
from fedpipe.data import datasets
from fedpipe.data.partition.settings import Partition
from fedpipe.engines import Compute
from fedpipe.experiment import Experiment, FederatedData
from fedpipe.pipeline import Pipeline
from fedpipe.studies.execution import write_partition
from fedpipe.studies.plan import Run
from fedpipe.studies.records import Record

STEPS = 20  # of training in a round of the trial
TO_THE_END = {"on_bad_update": "refuse", "on_divergence": "continue", "target_accuracy": None, "patience": None}


def seconds_of(runs: Sequence[Run], records: Iterable[Record], dataset: Path) -> tuple[float, str]:
    """Return about how many seconds runs take on one thread, all together, and from what that is known.

    Args:
        runs: what is to run.
        records: runs that ended.
        dataset: the folder of the data set.
    """
    took: dict[frozenset[tuple[str, str]], list[float]] = {}
    for record in records:
        if record.state == "done":
            took.setdefault(frozenset(record.labels.items()), []).append(record.seconds)
    if took:
        typical = mean(map(mean, took.values()))
        known = {labels: mean(of) for labels, of in took.items()}
        return sum(known.get(frozenset(run.labels.items()), typical) for run in runs), "by the runs so far"
    rates: dict[str, tuple[float, float]] = {}
    total = 0.0
    for run in runs:
        pipeline = run.pipeline
        like = f"{pipeline.model.in_use()} {pipeline.federated.local_training.batch_size}"
        if like not in rates:
            rates[like] = _trial(pipeline, dataset)
        total += _seconds(pipeline, *rates[like], datasets.describe(dataset / "dataset.json").train_examples)
    return total, "by a short trial"


def _seconds(pipeline: Pipeline, per_example: float, per_evaluation: float, examples: int) -> float:
    federated, partition = pipeline.federated, pipeline.partition
    each = partition.examples_per_client or examples / partition.clients
    processed = federated.clients_per_round * each * federated.local_training.epochs
    return federated.rounds * processed * per_example + federated.rounds / federated.evaluate_every * per_evaluation


def _trial(pipeline: Pipeline, dataset: Path) -> tuple[float, float]:
    """Return the seconds of training on an example and of an evaluation, on one thread of this machine."""
    federated = pipeline.federated
    batch = federated.local_training.batch_size
    once = pipeline.model_copy(
        update={
            "partition": Partition(clients=2, examples_per_client=STEPS * min(batch or 100, 100)),
            "federated": federated.model_copy(
                update={"rounds": 3, "clients_per_round": 1, "min_updates": 1, "evaluate_every": 3} | TO_THE_END
            ),
            "compute": Compute(engine="threads", workers=1, device=pipeline.compute.device),
        }
    )
    training = Experiment(seed=once.seed, model=once.model, federated=once.federated, compute=once.compute)
    with TemporaryDirectory(prefix="fedpipe-") as scratch:
        folder = Path(scratch) / "shards"
        write_partition(folder, dataset, once)
        ends, processed = [time.monotonic()], []
        for _, round in experiment.iterate(training, FederatedData(dataset, folder)):
            ends.append(time.monotonic())
            processed.append(round.examples_processed)
    # The first round warms up, the last one is evaluated.
    spent = [after - before for before, after in pairwise(ends)]
    return spent[1] / max(1, processed[1]), max(0.0, spent[2] - spent[1])
