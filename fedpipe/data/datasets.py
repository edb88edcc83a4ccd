"""A data set on disk: its training and its test examples as tensors, and a description with their hashes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from torch import Tensor

from fedpipe.system.errors import UserError
from fedpipe.system.files import read_json, read_tensors, reading, sha256_of_tensors, write_json, write_tensors


@dataclass(frozen=True)
class Split:
    """Hold the training or the test examples of a data set in memory."""

    images: Tensor  # (n, 28, 28) uint8
    labels: Tensor  # (n,) int64, 0..classes-1

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Hold a data set in memory, and say what it is."""

    name: str  # stands at the head of every report
    source: str  # where the examples come from, in words
    classes: int
    train: Split
    test: Split


def save(dataset: Dataset, folder: Path) -> None:
    """Write train.safetensors, test.safetensors and, last, dataset.json to a folder."""
    sha256 = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        write_tensors(folder / f"{name}.safetensors", {"images": split.images, "labels": split.labels})
        sha256 |= {
            f"{name}_images": sha256_of_tensors(split.images),
            f"{name}_labels": sha256_of_tensors(split.labels),
        }
    description = {
        "name": dataset.name,
        "source": dataset.source,
        "classes": dataset.classes,
        "train_examples": len(dataset.train),
        "test_examples": len(dataset.test),
        "sha256": sha256,
    }
    write_json(folder / "dataset.json", description)


def load(path: Path) -> Split:
    """Read train.safetensors or test.safetensors as `save` wrote it.

    Raises:
        UserError: the file is missing, or holds other examples than dataset.json says.
    """
    sha256 = describe(path.with_name("dataset.json")).sha256
    tensors = read_tensors(path)
    with reading(path, "download"):
        for name in ("images", "labels"):
            if sha256_of_tensors(tensors[name]) != sha256[f"{path.stem}_{name}"]:
                raise ValueError(f"its {name} are not those that were downloaded")
        return Split(tensors["images"], tensors["labels"])


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


@dataclass(frozen=True)
class Description:
    """Hold what stages need to know about a data set besides its examples."""

    name: StrictStr  # stands at the head of every report
    classes: Annotated[StrictInt, Field(ge=2, le=1000)]
    train_examples: Annotated[StrictInt, Field(ge=1)]
    test_examples: Annotated[StrictInt, Field(ge=1)]
    sha256: Mapping[str, str]  # of images and labels, by ``train_images`` and the like


def describe(path: Path) -> Description:
    """Read dataset.json as `save` wrote it.

    Raises:
        UserError: the file is missing, or no such description.
    """
    content = read_json(path)
    try:
        return TypeAdapter(Description).validate_python(content)
    except ValidationError:
        raise UserError(f"{path}: damaged (no description of a data set); delete it and run `dvc repro`") from None
