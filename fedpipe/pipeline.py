"""All of params.yaml as one object, and the combinations that cannot work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import nn

from fedpipe.baseline import Baseline
from fedpipe.config.file import PARAMS, flat, read
from fedpipe.config.own import OWN
from fedpipe.config.section import Section, Seed
from fedpipe.data.datasets import describe
from fedpipe.data.partition.settings import Partition
from fedpipe.data.sources import Download
from fedpipe.engines import Compute
from fedpipe.federated.settings import Federated
from fedpipe.local import Local, LocalExperiment
from fedpipe.models.parameters import skeleton
from fedpipe.models.settings import ModelChoice
from fedpipe.results.comparison import Compare
from fedpipe.spec import DataSpec
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.files import sha256_of_file
from fedpipe.system.imports import code

# The modules that hold tables of names and nothing else, so that a new name changes no result.
TABLES = [
    "fedpipe.data.partition",
    "fedpipe.federated.aggregation",
    "fedpipe.federated.attacks",
    "fedpipe.federated.compression",
    "fedpipe.federated.mechanisms",
    "fedpipe.federated.mixing",
    "fedpipe.federated.secure",
    "fedpipe.federated.strategies",
    "fedpipe.federated.transforms",
    "fedpipe.models",
]
COMPUTE_OF_RESULTS = "device", "precision"  # the other parameters of the block change no result
PAGES = Path(__file__).parent / "results/pages"  # templates, which are code that is not Python
DATASET = Path("data/dataset")  # where the pipeline keeps it


class Pipeline(Section):
    """params.yaml: every parameter of the pipeline."""

    seed: Seed = 42
    download: Download = Field(default=Download(), description="The data set.")
    partition: Partition = Field(default=Partition(), description="How the training set is divided among clients.")
    model: ModelChoice = Field(default=ModelChoice(), description="The network that all trainings train.")
    federated: Federated = Field(default=Federated(), description="Federated training.")
    baseline: Baseline = Field(default=Baseline(), description="Centralised training on the whole training set.")
    local: Local = Field(default=Local(), description="Every client alone, on its own examples.")
    compare: Compare = Field(default=Compare(), description="The comparison of the results.")
    compute: Compute = Field(default=Compute(), description="How and where the trainings are computed.")


def check(path: str | Path = PARAMS) -> Pipeline:
    """Return what the file describes.

    Raises:
        UserError: a line for each mistake: dotted path, value, what would work.
    """
    pipeline = read(Pipeline, path=path)
    found = [f"{path}: {mistake}" for mistake in mistakes(pipeline)]
    if found:
        raise UserError("\n".join(found))
    return pipeline


def inputs(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Return what the result of each stage follows from besides the files that it reads: its parameters and its code.

    Of the parameters, those of strategies, partitioners, models and the like that are not chosen are left out; of the
    code, those that are not chosen.

    Returns:
        For each stage ``parameters``, and ``code``: the SHA-256 of each file, by its path. For the report, which shows
        the parameters of all stages by their dotted paths, their ``defaults`` too, and the hashes of its ``pages``.
    """
    in_use, federated, partition = pipeline.in_use(), pipeline.federated, pipeline.partition
    training = {"seed": in_use["seed"], "model": in_use["model"]}
    compute = {name: in_use["compute"][name] for name in COMPUTE_OF_RESULTS}
    alone = LocalExperiment(
        seed=pipeline.seed, model=pipeline.model, federated=federated, local=pipeline.local, compute=pipeline.compute
    )
    counting = _counting(pipeline)
    shown = {
        "defaults": {name: _defaults()[name] for name in counting if name in _defaults()},
        "pages": _pages(),
    }
    parameters: dict[str, dict[str, Any]] = {
        "download": {"download": in_use["download"]},
        "partition": {"seed": in_use["seed"], "partition": in_use["partition"]},
        "federated": {**training, "federated": in_use["federated"], "compute": compute},
        "baseline": {**training, "baseline": in_use["baseline"], "compute": compute},
        "local": {**alone.in_use(), "compute": compute},
        "compare": {"compare": in_use["compare"]},
        "report": counting,
    }
    model = pipeline.model.model
    chosen: dict[str, list[Section | None]] = {
        "partition": [partition.partitioner, partition.quantity_skew, partition.feature_skew],
        "federated": [model, *federated.pieces],
        "baseline": [model],
        "local": [model],
    }
    return {
        stage: {
            "parameters": values,
            **(shown if stage == "report" else {}),
            "code": code(
                [f"stages.{stage}", *(type(one).__module__ for one in chosen.get(stage, []) if one)],
                [Path(__file__).parent.parent, OWN.resolve()],
                but_not=["fedpipe", *TABLES],
            ),
        }
        for stage, values in parameters.items()
    }


def _counting(pipeline: Pipeline) -> dict[str, Any]:
    """Return the parameters that results depend on, by dotted path."""
    in_use = pipeline.in_use()
    in_use["compute"] = {name: in_use["compute"][name] for name in COMPUTE_OF_RESULTS}
    return flat(in_use)


# Of both there is one in a process, and a study asks for the inputs of hundreds of runs.
@cache
def _defaults() -> dict[str, Any]:
    """Return the defaults of all parameters, by dotted path."""
    return flat(Pipeline().model_dump(mode="json"))


@cache
def _pages() -> dict[str, str]:
    """Return the SHA-256 of each template of pages."""
    return {file.name: sha256_of_file(file) for file in sorted(PAGES.iterdir()) if file.is_file()}


def spec_of(pipeline: Pipeline) -> DataSpec | None:
    """Return what the images and labels are like; None for a data set of the user's own that is not there yet."""
    known = _known(pipeline.download)
    return known and known.spec


def mistakes(pipeline: Pipeline) -> Iterator[ParameterError]:
    """Yield what is wrong with sections that are right by themselves."""
    federated, compute = pipeline.federated, pipeline.compute
    cohort, clients = federated.clients_per_round, pipeline.partition.clients
    if cohort > clients:
        yield ParameterError("federated.clients_per_round", f"{cohort} exceeds partition.clients = {clients}")
    else:
        yield from _raised(lambda: federated.guarantee(clients))
    if known := _known(pipeline.download):
        try:
            examples = known.examples - pipeline.download.validation_examples(known.examples)
        except ParameterError as error:
            yield error
            examples = known.examples
        network = skeleton(pipeline.model.model.on(known.spec))
        yield from _raised(lambda: federated.algorithm.check(network))
        if federated.mechanism.is_private:
            yield from _noiseless(network, pipeline)
        # Tried on labels as many as the data set's, each as often as the other.
        labels = np.arange(examples) % known.spec.classes
        owners = np.arange(examples) % known.clients if known.clients else None
        yield from _raised(lambda: pipeline.partition.assign(labels, pipeline.seed, owners))
    yield from _raised(compute.torch_device)
    if compute.engine == "ray" and find_spec("ray") is None:
        yield ParameterError("compute.engine", 'ray is not installed; pip install -e ".[ray]"')


def _noiseless(network: nn.Module, pipeline: Pipeline) -> Iterator[ParameterError]:
    """Yield that clients would send what gets no noise."""
    at_home = pipeline.federated.algorithm.stays_at_home(network)
    buffers = [name for name, _ in network.named_buffers() if name not in at_home]
    if buffers:
        yield ParameterError(
            "model.name",
            f"{pipeline.model.name} does not go with federated.privacy {pipeline.federated.privacy}: buffers such as "
            f"{buffers[0]} would be averaged without noise; a model without them, or federated.strategy: fedbn, which "
            "keeps them at home, would do",
        )


@dataclass(frozen=True)
class _Known:
    spec: DataSpec
    examples: int  # to train and to validate on
    clients: int  # of its own


def _known(download: Download) -> _Known | None:
    """Return what is known of a data set before it is there; None of one of the user's own that is not there yet."""
    try:
        there = describe(DATASET / "dataset.json")
    except UserError:
        there = None
    original = download.original
    if original is None:
        there = there if there and there.name == Path(download.path).stem else None
    elif not there or not (there.is_sample and there.name.startswith(original.name)):  # which is smaller
        return _Known(original.spec(), original.train_examples, 0)
    examples = there.train_examples + there.validation_examples if there else 0
    return there and _Known(there.spec, examples, len(there.client_names))


def _raised(attempt: Callable[[], object]) -> Iterator[ParameterError]:
    try:
        attempt()
    except ParameterError as error:
        yield error
