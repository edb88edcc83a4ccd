"""A data set on disk: training, validation and test examples as tensors, and a description with their hashes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, StrictFloat, StrictInt, StrictStr, TypeAdapter
from torch import Tensor

from fedpipe.spec import DataSpec
from fedpipe.system.errors import UserError
from fedpipe.system.files import read_json, reading, write_json
from fedpipe.system.tensors import read_tensors, sha256_of_tensors, write_tensors


@dataclass(frozen=True)
class Split:
    """Hold the training, the validation or the test examples of a data set in memory."""

    images: Tensor  # (n, height, width, channels) uint8
    labels: Tensor  # (n,) int64, 0..classes-1
    owners: Tensor | None = None  # (n,) int64: the client that each example is from, if the data set has clients

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def at(self, indices: Tensor) -> "Split":
        """Return the examples at these places."""
        return Split(**{name: tensor[indices] for name, tensor in self.tensors().items()})


@dataclass(frozen=True)
class Dataset:
    """Hold a data set in memory, and say what it is."""

    name: str  # stands at the head of every report
    source: str  # where the examples come from, in words
    spec: DataSpec
    class_names: tuple[str, ...]
    train: Split
    test: Split
    client_names: tuple[str, ...] = ()  # of the clients that it brings along
    validation: Split | None = None  # taken from the training examples; None for none


def measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel's pixels, where black is 0 and white is 1.

    The sums are of whole numbers, so that no order of addition can change a bit. A channel without any contrast has the
    standard deviation 1, so that it can be divided by.

    Args:
        images: (n, height, width, channels) uint8.
    """
    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = torch.bincount(images[..., channel].flatten(), minlength=256)  # of each brightness
        pixels, brightness = int(counts.sum()), torch.arange(256)
        total, squares = int((counts * brightness).sum()), int((counts * brightness**2).sum())
        means.append(total / pixels / 255)
        deviations.append((squares * pixels - total**2) ** 0.5 / pixels / 255 or 1.0)
    return tuple(means), tuple(deviations)


def save(dataset: Dataset, folder: Path) -> None:
    """Write train.safetensors, validation.safetensors, test.safetensors and, last, dataset.json to a folder."""
    images, labels = dataset.train.images, dataset.train.labels
    validation = dataset.validation or Split(images.new_empty(0, *images.shape[1:]), labels.new_empty(0))
    sha256 = {}
    for name, split in (("train", dataset.train), ("validation", validation), ("test", dataset.test)):
        write_tensors(folder / f"{name}.safetensors", split.tensors())
        sha256 |= {f"{name}_{part}": sha256_of_tensors(tensor) for part, tensor in split.tensors().items()}
    description = {
        "name": dataset.name,
        "source": dataset.source,
        **vars(dataset.spec),
        "class_names": dataset.class_names,
        "client_names": dataset.client_names,
        "train_examples": len(dataset.train),
        "validation_examples": len(validation),
        "test_examples": len(dataset.test),
        "sha256": sha256,
    }
    write_json(folder / "dataset.json", description)


def load(path: Path) -> Split:
    """Read train.safetensors, validation.safetensors or test.safetensors as `save` wrote it.

    Raises:
        UserError: the file is missing, or holds other examples than dataset.json says.
    """
    description = describe(path.with_name("dataset.json"))
    tensors = read_tensors(path)
    with reading(path, "download"):
        for name in sorted({"images", "labels", *tensors}):
            if sha256_of_tensors(tensors[name]) != description.sha256[f"{path.stem}_{name}"]:
                raise ValueError(f"its {name} are not those that were downloaded")
        if tensors["images"].shape[1:] != description.spec.shape:
            raise ValueError(f"its images are not {' x '.join(map(str, description.spec.shape))}")
        return Split(**tensors)


def load_to(device: torch.device, path: Path) -> Split:
    """Read the same into a device's memory; a process reads a file once, unless it changes.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _load_to(device, path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=1)
def _load_to(device: torch.device, path: Path, changed: int) -> Split:
    split = load(path)
    return Split(split.images.to(device), split.labels.to(device))


SAMPLE = "MNIST sample (5,000 images)"  # the data set that stands in for MNIST where there is none

Side = Annotated[StrictInt, Field(ge=1, le=10_000)]
PerChannel = Annotated[tuple[StrictFloat, ...], Field(min_length=1, max_length=100)]


@dataclass(frozen=True)
class Description:
    """Hold what stages need to know about a data set besides its examples."""

    name: StrictStr  # stands at the head of every report
    source: StrictStr  # where the examples come from, in words
    height: Side
    width: Side
    channels: Annotated[StrictInt, Field(ge=1, le=100)]
    classes: Annotated[StrictInt, Field(ge=2, le=1000)]
    mean: PerChannel
    std: PerChannel
    class_names: tuple[StrictStr, ...]
    client_names: tuple[StrictStr, ...]
    train_examples: Annotated[StrictInt, Field(ge=1)]
    validation_examples: Annotated[StrictInt, Field(ge=0)]
    test_examples: Annotated[StrictInt, Field(ge=1)]
    sha256: Mapping[str, str]  # of images and labels, by ``train_images`` and the like

    @property
    def is_sample(self) -> bool:
        """Whether it is the sample that stands in for MNIST, which its name says."""
        return self.name == SAMPLE

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.height, self.width, self.channels, self.classes, self.mean, self.std)


@dataclass(frozen=True)
class OnDataset:
    """What a training on a data set came to, as far as it is about the data set."""

    data: Description

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.data.name

    @property
    def evaluated_on(self) -> str:
        """What models are evaluated on while training goes on: ``validation`` data if there are any, else ``test``."""
        return "validation" if self.data.validation_examples else "test"

    @property
    def spec(self) -> DataSpec:
        """What its images and labels are like."""
        return self.data.spec


def describe(path: Path) -> Description:
    """Read dataset.json as `save` wrote it.

    Raises:
        UserError: the file is missing, or no such description.
    """
    content = read_json(path)
    try:
        description = TypeAdapter(Description).validate_python(content)
        description.spec.require_normalisation()
        return description
    except ValueError:
        raise UserError(f"{path}: damaged (no description of a data set); delete it and run `dvc repro`") from None
