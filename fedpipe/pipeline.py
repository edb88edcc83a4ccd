"""All of params.yaml as one object, and the combinations that cannot work."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pydantic import Field

from fedpipe.baseline import Baseline
from fedpipe.config.file import PARAMS, read
from fedpipe.config.section import Section, Seed
from fedpipe.data.datasets import describe
from fedpipe.data.partition import Partition
from fedpipe.data.sources import ORIGINALS, Download, Original
from fedpipe.engines import Compute
from fedpipe.federated.settings import Federated
from fedpipe.models import ModelChoice
from fedpipe.models.parameters import skeleton
from fedpipe.results.comparison import Compare
from fedpipe.system.errors import ParameterError, UserError

DATASET = Path("data/mnist")  # where the pipeline keeps it


class Pipeline(Section):
    """params.yaml: every parameter of the pipeline."""

    seed: Seed = 42
    download: Download = Field(default=Download(), description="The data set.")
    partition: Partition = Field(default=Partition(), description="How the training set is divided among clients.")
    model: ModelChoice = Field(default=ModelChoice(), description="The network that both trainings train.")
    federated: Federated = Field(default=Federated(), description="Federated training.")
    baseline: Baseline = Field(default=Baseline(), description="Centralised training on the whole training set.")
    compare: Compare = Field(default=Compare(), description="The comparison of the results.")
    compute: Compute = Field(default=Compute(), description="How and where the trainings are computed.")


def check(path: str | Path = PARAMS) -> Pipeline:
    """Return what the file describes.

    Raises:
        UserError: a line for each mistake: dotted path, value, what would work.
    """
    pipeline = read(Pipeline, path=path)
    mistakes = [str(mistake) for mistake in _mistakes(pipeline)]
    if mistakes:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return pipeline


def _mistakes(pipeline: Pipeline) -> Iterator[ParameterError]:
    """Yield what is wrong with sections that are right by themselves."""
    federated, compute, original = pipeline.federated, pipeline.compute, ORIGINALS[pipeline.download.dataset]
    cohort, clients = federated.clients_per_round, pipeline.partition.clients
    if cohort > clients:
        yield ParameterError("federated.clients_per_round", f"{cohort} exceeds partition.clients = {clients}")
    network = skeleton(pipeline.model.model.for_classes(original.classes))
    yield from _raised(lambda: federated.algorithm.check(network))
    # Tried on labels as many as the data set's, each as often as the other.
    labels = np.arange(_train_examples(original)) % original.classes
    yield from _raised(lambda: pipeline.partition.assign(labels, pipeline.seed))
    yield from _raised(compute.torch_device)
    if compute.engine == "ray" and find_spec("ray") is None:
        yield ParameterError("compute.engine", 'ray is not installed; pip install -e ".[ray]"')


def _train_examples(original: Original) -> int:
    """Return how many training examples there are: of the data set, or of the sample if that is what was downloaded."""
    try:
        there = describe(DATASET / "dataset.json")
    except UserError:
        return original.train_examples
    return there.train_examples if there.name.startswith(f"{original.name} sample") else original.train_examples


def _raised(attempt: Callable[[], object]) -> Iterator[ParameterError]:
    try:
        attempt()
    except ParameterError as error:
        yield error
