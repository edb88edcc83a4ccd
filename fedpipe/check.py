"""All of params.yaml as one object, and the combinations that cannot work."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pydantic import NonNegativeInt

from fedpipe.baseline import Baseline
from fedpipe.datasets import ORIGINALS, Download
from fedpipe.engines import Compute
from fedpipe.errors import UserError
from fedpipe.federated import Federated
from fedpipe.models import ModelChoice
from fedpipe.params import PARAMS, Section, read
from fedpipe.partition import Partition
from fedpipe.partition.classes import Classes
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
    original = ORIGINALS[experiment.download.dataset]
    if clients > original.train_examples and experiment.partition.examples_per_client is None:
        mistakes.append(
            f"partition.clients: {clients} exceeds {original.name}'s {original.train_examples} training examples; "
            "partition.examples_per_client draws them with replacement"
        )
    if cohort > clients:
        mistakes.append(f"federated.clients_per_round: {cohort} exceeds partition.clients = {clients}")
    partition = experiment.partition
    if isinstance(partition.partitioner, Classes) and partition.partitioner.per_client > original.classes:
        mistakes.append(
            f"partition.classes.per_client: {partition.partitioner.per_client} exceeds "
            f"{original.name}'s {original.classes} classes"
        )
    mistakes += _unusable(experiment.compute)
    if mistakes:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return experiment


def _unusable(compute: Compute) -> Iterator[str]:
    """What this machine does not have."""
    try:
        compute.torch_device()
    except UserError as error:
        yield str(error).removeprefix(f"{PARAMS}: ")
    if compute.engine == "ray" and find_spec("ray") is None:
        yield 'compute.engine: ray is not installed; pip install -e ".[ray]"'
