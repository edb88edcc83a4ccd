"""All of params.yaml as one object, and the combinations that cannot work."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt

from fedpipe.baseline import Baseline
from fedpipe.datasets import ORIGINALS, Download
from fedpipe.engines import Compute
from fedpipe.errors import UserError
from fedpipe.federated import Federated
from fedpipe.models import ModelChoice
from fedpipe.params import PARAMS, Section, read
from fedpipe.partition import Partition
from fedpipe.report import Compare


class Experiment(Section):
    """params.yaml: every knob of the pipeline."""

    seed: NonNegativeInt = 42
    download: Download = Download()
    partition: Partition = Partition()
    model: ModelChoice = ModelChoice()
    federated: Federated = Federated()
    baseline: Baseline = Baseline()
    compare: Compare = Compare()
    compute: Compute = Compute()


def check(path: str | Path = PARAMS) -> Experiment:
    """The experiment that the file describes.

    Raises:
        UserError: a line for each mistake: dotted path, value, what would work.
    """
    experiment = read(Experiment, path=path)
    cohort, clients = experiment.federated.clients_per_round, experiment.partition.clients
    mistakes = []
    if cohort > clients:
        mistakes.append(f"federated.clients_per_round: {cohort} exceeds partition.clients = {clients}")
    mistakes += _indivisible(experiment)
    mistakes += _unusable(experiment.compute)
    if mistakes:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return experiment


def _indivisible(experiment: Experiment) -> Iterator[str]:
    """Why this partition cannot be: tried on labels as many as the data set's, each as often as the other."""
    original = ORIGINALS[experiment.download.dataset]
    try:
        experiment.partition.assign(np.arange(original.train_examples) % original.classes, experiment.seed)
    except UserError as error:
        yield str(error).removeprefix(f"{PARAMS}: ")


def _unusable(compute: Compute) -> Iterator[str]:
    """What this machine does not have."""
    try:
        compute.torch_device()
    except UserError as error:
        yield str(error).removeprefix(f"{PARAMS}: ")
    if compute.engine == "ray" and find_spec("ray") is None:
        yield 'compute.engine: ray is not installed; pip install -e ".[ray]"'
