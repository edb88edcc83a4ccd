"""The way in from Python: run an experiment in a script or a notebook, with neither DVC nor files.

>>> result = fedpipe.run(strategy="fedprox", rounds=3)
>>> result.rounds[["round", "test_accuracy"]]
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedpipe import experiment as federated_training
from fedpipe.config import own
from fedpipe.config.mistakes import known_keys, mistakes
from fedpipe.config.section import S
from fedpipe.data import datasets, sources
from fedpipe.data.datasets import Dataset, Split
from fedpipe.data.partition.settings import Partition
from fedpipe.data.shards import write_shards
from fedpipe.experiment import Experiment, FederatedData
from fedpipe.federated.settings import Federated
from fedpipe.models.base import Model
from fedpipe.models.parameters import Parameters, network_with
from fedpipe.serving import trained
from fedpipe.spec import DataSpec
from fedpipe.system import console
from fedpipe.system.errors import UserError

if TYPE_CHECKING:
    import altair
    import pandas as pd

PIPELINES = Path("data/dataset")  # where the pipeline keeps its data set
TESTED = 0.1  # of the examples, where no test set is given

Examples = tuple[Any, Any]
"""Images (n, height, width) or (n, height, width, channels) uint8, and labels (n,) 0, 1, ..., as arrays or tensors."""


@dataclass(frozen=True, repr=False)
class Result(federated_training.Result):
    """What an experiment came to, for people: tables, a picture, and the model."""

    experiment: Experiment

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """A row for each round: cohort, who failed and how, examples, losses, accuracy, norms, bytes down and up."""
        import pandas as pd

        return pd.DataFrame(self.round_rows())

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """A row for each update that counted: examples, epochs, losses, accuracy before and after training."""
        import pandas as pd

        return pd.DataFrame(self.client_rows())

    @property
    def accuracy(self) -> float:
        """The test accuracy of the last model, a fraction."""
        return self.test.accuracy

    @property
    def loss(self) -> float:
        """The test loss of the last model, its mean cross-entropy."""
        return self.test.loss

    @property
    def parameters(self) -> Parameters:
        """The last model's parameters and buffers, by name."""
        return self.state.parameters

    def module(self) -> nn.Module:
        """Return the last model as a plain torch module, ready for use.

        It maps images (n, channels, height, width) float32, normalised as in training: (pixels / 255 - mean) / std with
        the mean and std of `spec`, to logits (n, classes).
        """
        return network_with(self.experiment.model.model.on(self.spec), self.parameters).eval()

    def save(self, path: str | Path) -> None:
        """Write the last model to a safetensors file, which `fedpipe predict` and `fedpipe export` take with --model.

        The file's header says what network and images the tensors are for, and how they were trained.

        Raises:
            UserError: the experiment has an object of a class whose code cannot be read.
        """
        trained.write(path, self.parameters, self.experiment, self.data)

    def plot(self) -> "altair.Chart":
        """Return the accuracy over the rounds, as a picture that a notebook shows and that `save(path)` saves.

        It is that on validation data if there are any, and else that on the test set.
        """
        import altair

        accuracy, loss = f"{self.evaluated_on}_accuracy", f"{self.evaluated_on}_loss"
        table = self.rounds.loc[:, ["round", accuracy, loss]].dropna()
        ticks = altair.Axis(tickCount=min(10, max(1, len(self.history) - 1)), format="d")  # at whole rounds
        round = altair.X("round", title="round", axis=ticks).scale(zero=False)
        title = accuracy.replace("_", " ")
        height = altair.Y(accuracy, title=title, axis=altair.Axis(format=".1%")).scale(zero=False)
        return (
            altair.Chart(table, title=f"{self._algorithm} on {self.dataset}", width=420, height=260)
            .mark_line(point=True)
            .encode(x=round, y=height, tooltip=list(table))
        )

    @property
    def _algorithm(self) -> str:
        return str(self.experiment.federated.strategy)

    def __repr__(self) -> str:
        diverged = ", diverged" if self.state.diverged else ""
        return (
            f"<{self._algorithm} on {self.dataset}: test accuracy {self.accuracy:.2%}, loss {self.loss:.4f} "
            f"after {len(self.history)} rounds{diverged}>"
        )

    def _repr_html_(self) -> str:
        columns = ["round", "examples", "train_loss", f"{self.evaluated_on}_loss", f"{self.evaluated_on}_accuracy"]
        return f"<p>{repr(self)[1:-1]}</p>" + self.rounds.loc[:, columns].to_html(index=False, na_rep="")


def run(
    experiment: Experiment | None = None,
    /,
    *,
    data: Examples | list[Examples] | str | Path | None = None,
    test: Examples | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    validation: float = 0.0,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
    **parameters: Any,
) -> Result:
    """Run a federated experiment, and return what it came to.

    Parameters are those of params.yaml, with the same names, defaults and meanings: `seed`, the blocks `model` and
    `compute`, and everything in the blocks `federated` and `partition` by its own name. A block is a mapping. For
    `model`, its name will do. `strategy`, `aggregation`, `transforms`, `attack`, `compression`, `model` and `scheme`
    also take an object of a class of your own: a `Strategy`, an `Aggregator`, a `Transform` or several, an `Attack`, a
    `Compression`, a `Model`, a `Partitioner`.

    Examples:
        >>> fedpipe.run(strategy="fedprox", rounds=3)
        >>> fedpipe.run(model="2nn", clients=50, scheme="dirichlet", dirichlet={"alpha": 0.1}, local={"lr": 1e-4})
        >>> fedpipe.run(data=(images, labels), strategy=MyStrategy(mu=0.1))

    Args:
        experiment: instead of the parameters of `federated`, `model`, `compute` and `seed`.
        data: images and labels, which are divided among the clients; or a list of such pairs, a client's own each; or
            the name of a data set, such as "fashion-mnist", which is fetched; or a folder or a file with a data set of
            your own, as `download.path` in params.yaml names it. None takes the pipeline's data set if it is in this
            folder, else MNIST from where FEDPIPE_DATA says, else MNIST's sample of 5,000 images, and says so.
        test: images and labels to test on. None holds out a tenth of the data, drawn at random: of each client's own,
            if each brings its own.
        mean: of each channel's pixels in `data`, where black is 0 and white is 1: networks take (pixels - mean) / std.
            None measures both on all the examples to train on.
        std: their standard deviation. Both are given, or neither.
        validation: the fraction of the examples to train on that is held back for validation, evenly from each class,
            and from each client's own: nobody trains on them, and they decide in place of the test set when training
            stops. The test set is then used once, for the last model.
        checkpoint: a folder. A run that was interrupted goes on from what it finds there, with the same bits as if it
            had not been, when it is called again with the same parameters and data. None saves nothing.
        quiet: print nothing.
        parameters: see above.

    Raises:
        UserError: a parameter or the data cannot work, with a line for each mistake.
    """
    if experiment is None:
        experiment, partition = _experiment(parameters)
    else:
        partition = _section(Partition, parameters)
    if checkpoint is not None:
        experiment.in_use()  # which needs the code of a user's own classes, by which checkpoints are told apart
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedpipe-")))
        normalisation = {"mean": mean and tuple(mean), "std": std and tuple(std)}
        download = _section(sources.Download, {**normalisation, "validation": validation})
        found = _data(data, test, download, partition, experiment.seed, scratch, quiet)
        settings = experiment.federated
        total = settings.rounds * settings.clients_per_round
        bar = None if quiet else stack.enter_context(console.progress("client updates", total))

        def resumed(done: federated_training.Result) -> None:
            if bar:
                console.say(f"interrupted before: going on after round {len(done.history)} of {settings.rounds}")
                bar.advance(len(done.history) * settings.clients_per_round)

        def report(done: federated_training.Result) -> None:
            round = done.history[-1]
            if bar:
                bar.report(f"round {round.number}", round.evaluations.by_data(), round.examples_processed)

        done = federated_training.run(
            experiment, found, checkpoint=None if checkpoint is None else Path(checkpoint),
            on_resume=resumed, on_round=report,
            on_clients=lambda reports: bar.advance(len(reports)) if bar else None,
        )  # fmt: skip
    return Result(**vars(done), experiment=experiment)


def _experiment(parameters: Mapping[str, Any]) -> tuple[Experiment, Partition]:
    """Return the experiment and the partition of keywords as `run` takes them."""
    blocks: dict[str, Any] = {}
    federated: dict[str, Any] = {}
    partition: dict[str, Any] = {}
    known = {"seed", "model", "compute", *Federated.model_fields, *Partition.model_fields}
    for name, value in parameters.items():
        if own.is_block(name, value):  # of a class that is named, as in strategy="my_module:MyStrategy"
            (partition if f"{own.MARK}{name}" in str(parameters.get("scheme")) else federated)[name] = value
        elif name not in known:
            raise UserError(f"{name}: unknown parameter; {known_keys(name, sorted(known))}")
        elif name in Federated.model_fields:
            federated[name] = value
        elif name in Partition.model_fields:
            partition[name] = value
        else:
            blocks[name] = {"name": value} if name == "model" and isinstance(value, (str, Model)) else value
    return _section(Experiment, {**blocks, "federated": federated}), _section(Partition, partition)


def _section(kind: type[S], values: Mapping[str, Any]) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(mistakes(error, kind))) from None


def _data(
    data: Examples | list[Examples] | str | Path | None,
    test: Examples | None,
    download: sources.Download,
    partition: Partition,
    seed: int,
    scratch: Path,
    quiet: bool,
) -> FederatedData:
    """Return where the data lies, which is in the folder `scratch` if it is not in files already."""
    if data is None or isinstance(data, (str, Path)):
        if test is not None:
            raise UserError("test: the data set has a test set of its own; give the data with it")
        folder = _folder(data, download, scratch, quiet)
        train, spec = datasets.load(folder / "train.safetensors"), datasets.describe(folder / "dataset.json").spec
        write_shards(scratch / "shards", train, spec.classes, partition, seed)
        return FederatedData(folder, scratch / "shards")
    if not isinstance(data, list):
        return _divided(_split(data, "data"), test, download, partition, seed, scratch)
    if partition != Partition():
        raise UserError("data: a list of clients' own, which nothing divides; leave the parameters of partition out")
    clients = [_split(own, f"data[{client}]") for client, own in enumerate(data)]
    own = Partition(scheme="natural", clients=len(clients) or 1)
    return _divided(_joined(clients, "data"), test, download, own, seed, scratch)


def _divided(
    examples: Split,
    test: Examples | None,
    download: sources.Download,
    partition: Partition,
    seed: int,
    scratch: Path,
) -> FederatedData:
    train, held_out = (examples, _split(test, "test")) if test is not None else sources.parted(examples, TESTED, seed)
    train, validation = sources.without_validation(train, download)
    classes = _save(train, validation, held_out, download, scratch)
    write_shards(scratch / "shards", train, classes, partition, seed)
    return FederatedData(scratch / "dataset", scratch / "shards")


def _save(train: Split, validation: Split | None, test: Split, download: sources.Download, scratch: Path) -> int:
    """Write the data set, and return how many classes it has."""
    if not len(test):
        raise UserError("data: too few examples to test on a tenth of them; give a test set")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(f"test: images are {_described(test.images)}, unlike those of data: {_described(train.images)}")
    height, width, channels = train.images.shape[1:]
    splits = train, test, *([validation] if validation else [])
    classes = max(2, 1 + max(int(split.labels.max()) for split in splits))
    spec = DataSpec(height, width, channels, classes, *download.normalisation(train.images))
    names = tuple(map(str, range(classes)))
    dataset = Dataset("own data", "given to fedpipe.run", spec, names, train, test, validation=validation)
    datasets.save(dataset, scratch / "dataset")
    return classes


def _folder(data: str | Path | None, download: sources.Download, scratch: Path, quiet: bool) -> Path:
    """Return the folder of a data set, as `fedpipe.data.datasets.save` writes it: where it is, or where it was put."""
    there = PIPELINES if data is None else Path(data)
    if (there / "dataset.json").exists():
        if download.mean:
            raise UserError("mean: the data set has a mean and a std already; leave them out")
        return _with_validation(there, download, scratch) if download.validation else there
    log = (lambda line: None) if quiet else console.say
    if data is None and not sources.named_source("mnist"):
        log(
            f"MNIST is not in {PIPELINES}, so this runs on its sample of 5,000 images; `dvc repro download` gets it, "
            f"or {sources.SOURCE_VARIABLE}=DIR_OR_URL says where it is"
        )
        dataset = sources.offline_sample(download)
    else:
        name = "mnist" if data is None else str(data) if str(data) in sources.ORIGINALS else sources.OWN
        download = download.model_copy(update={"dataset": name, "path": str(data), "offline_sample": False})
        dataset = sources.fetch(download, sources.named_source(name), scratch, log)
    datasets.save(dataset, scratch / "dataset")
    return scratch / "dataset"


def _with_validation(there: Path, download: sources.Download, scratch: Path) -> Path:
    """Write the data set of a folder anew, as the stage download would with validation data, and return where."""
    found = datasets.describe(there / "dataset.json")
    if found.validation_examples:
        raise UserError("validation: the data set has validation data already; leave it out")
    whole, test = (datasets.load(there / f"{name}.safetensors") for name in ("train", "test"))
    train, validation = sources.without_validation(whole, download)
    normalisation = found.mean, found.std
    mean, std = datasets.measured(train.images) if normalisation == datasets.measured(whole.images) else normalisation
    spec = replace(found.spec, mean=mean, std=std)
    dataset = Dataset(
        found.name, found.source, spec, found.class_names, train, test, found.client_names, validation
    )  # fmt: skip
    datasets.save(dataset, scratch / "dataset")
    return scratch / "dataset"


def _split(examples: Examples, what: str) -> Split:
    """Return images and labels as tensors.

    Raises:
        UserError: they are something else.
    """
    if not isinstance(examples, tuple) or len(examples) != 2:
        raise UserError(f"{what}: not a pair of images and labels")
    images, labels = (_tensor(part, what) for part in examples)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise UserError(
            f"{what}: images are {_described(images)}, and must be (n, height, width) or "
            "(n, height, width, channels) uint8"
        )
    images = images if images.ndim == 4 else images.unsqueeze(-1)
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.shape != images.shape[:1]:
        raise UserError(f"{what}: labels are {_described(labels)}, and must be ({len(images)},) of whole numbers")
    if not len(labels) or labels.min() < 0:
        raise UserError(f"{what}: {'labels below 0' if len(labels) else 'no examples'}")
    return Split(images.contiguous(), labels.to(torch.int64))


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what}: neither an array nor a tensor: {error}") from None


def _described(values: Tensor) -> str:
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"


def _joined(clients: Sequence[Split], what: str) -> Split:
    """Return the examples of all clients, which say whose they are."""
    shapes = {client.images.shape[1:] for client in clients}
    if len(shapes) != 1:
        raise UserError(f"{what}: {'clients have images of different sizes' if shapes else 'no clients'}")
    return Split(
        torch.cat([client.images for client in clients]),
        torch.cat([client.labels for client in clients]),
        torch.cat([torch.full((len(client),), number) for number, client in enumerate(clients)]),
    )
