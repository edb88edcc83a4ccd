"""Data sets are fetched from wherever they are, and verified; a damaged file is an error that names it.

The tests make four small files in MNIST's format and put their checksums into torchvision's table. If FEDPIPE_DATA
names a source of MNIST, one test reads all of it.
"""

import gzip
import hashlib
import json
import pickle
import re
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from torchvision.datasets import CIFAR10, CIFAR100, EMNIST, KMNIST, MNIST, SVHN, FashionMNIST

from fedpipe.data import sources
from fedpipe.data.datasets import Dataset, Split, describe, load, save
from fedpipe.data.sources import ORIGINALS, Download, fetch
from fedpipe.spec import DataSpec
from fedpipe.system.errors import UserError
from tests.conftest import MNIST_SOURCE

NO_RETRY = Download(retries=0, offline_sample=False)


@pytest.fixture
def folder(sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a source: a folder with four .gz files whose checksums torchvision knows."""
    folder = tmp_path / "source"
    folder.mkdir()
    resources = []
    for prefix, split, n in (("train", sample.train, 100), ("t10k", sample.test, 20)):
        images, labels = split.images[:n, :, :, 0], split.labels[:n].to(torch.uint8)
        for name, magic, tensor in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = struct.pack(f">{1 + tensor.ndim}i", magic, *tensor.shape)
            content = gzip.compress(header + tensor.numpy().tobytes(), mtime=0)
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(content)
            resources.append((f"{prefix}-{name}-ubyte.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # does not answer
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


class Mirror(SimpleHTTPRequestHandler):
    """Serve a folder. Answer the first `failing` requests with 503; if `breaks_off`, send 10 bytes of each file."""

    failing = 0
    breaks_off = False
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if len(self.asked) <= self.failing:
            self.send_error(503)
        else:
            super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        outputfile.write(source.read(10) if self.breaks_off else source.read())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(folder: Path) -> Iterator[tuple[str, type[Mirror]]]:
    """Serve the folder over HTTP. Return the address and the handler."""
    handler = type("ThisMirror", (Mirror,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def silent(line: str) -> None:
    pass


def equal(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


# Sources


def test_a_folder_is_a_source(folder: Path, scratch: Path, sample: Dataset):
    dataset = fetch(NO_RETRY, str(folder), scratch, silent)
    assert dataset.name == "MNIST"
    assert equal(dataset.train, Split(sample.train.images[:100], sample.train.labels[:100]))
    assert equal(dataset.test, Split(sample.test.images[:20], sample.test.labels[:20]))
    assert not list(scratch.iterdir())


def test_a_mirror_is_a_source_and_gives_the_same_description_as_a_folder(
    folder: Path, mirror: tuple[str, type[Mirror]], scratch: Path, tmp_path: Path
):
    save(fetch(NO_RETRY, mirror[0], scratch, silent), tmp_path / "one")
    save(fetch(NO_RETRY, str(folder), scratch, silent), tmp_path / "other")
    for name in ("dataset.json", "train.safetensors", "test.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_torchvisions_mirrors_are_asked_when_the_source_does_not_answer(
    mirror: tuple[str, type[Mirror]], scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MNIST, "mirrors", [mirror[0] + "/"])
    assert fetch(NO_RETRY, "http://127.0.0.1:9", scratch, silent).name == "MNIST"


def test_a_mirror_is_asked_again_after_a_failure(
    mirror: tuple[str, type[Mirror]], scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    waits: list[float] = []
    monkeypatch.setattr(sources.time, "sleep", waits.append)
    mirror[1].failing = 2
    assert fetch(Download(retries=2, offline_sample=False), mirror[0], scratch, silent).name == "MNIST"
    assert waits == [1, 2]


def test_the_number_of_retries_is_bounded(
    mirror: tuple[str, type[Mirror]], scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)
    mirror[1].failing = 10**9
    with pytest.raises(UserError, match=r"no source answers: .*HTTP 503"):
        fetch(Download(retries=3, offline_sample=False), mirror[0], scratch, silent)
    assert len(mirror[1].asked) == 4


@pytest.mark.parametrize(
    "source",
    ["/no/such/folder", "http://[::1", "http://", "https:///x", "http://host:99999", "ftp://host", "C:\\mnist"],
)
def test_what_is_neither_folder_nor_url_is_refused(source: str, scratch: Path, folder: Path):
    with pytest.raises(UserError, match=rf"^FEDPIPE_DATA: {re.escape(repr(source))} is neither a folder nor an http"):
        fetch(Download(), source, scratch, silent)


@pytest.mark.parametrize("dataset", ORIGINALS)
def test_every_file_may_be_as_large_as_it_is(dataset: str):
    """EMNIST's archive has 562 MB; CIFAR's 171 MB, SVHN's files 182 MB; of the others' the largest has 26 MB."""
    largest = 562e6 if dataset.startswith("emnist") else 183e6 if dataset.startswith(("cifar", "svhn")) else 26.5e6
    assert ORIGINALS[dataset].largest > largest


def test_the_sample_does_not_stand_in_for_a_source_that_is_named(scratch: Path, folder: Path):
    with pytest.raises(UserError, match=r"no source answers: .*; name another FEDPIPE_DATA=DIR_OR_URL$"):
        fetch(Download(retries=0), "http://127.0.0.1:9", scratch, silent)


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_an_error_page(path: Path) -> None:
    path.write_bytes(b"<html>Please log in</html>")


DAMAGES = [truncate, alter, empty, replace_by_an_error_page]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", range(4))
def test_a_damaged_file_of_a_folder_is_an_error_that_names_it(folder: Path, scratch: Path, damage, number: int):
    path = folder / MNIST.resources[number][0]
    damage(path)
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        fetch(Download(), str(folder), scratch, silent)  # even if the offline sample may stand in
    assert f"MNIST: {path}: damaged: {path.stat().st_size:,} bytes with md5 " in str(error.value)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_mirror_is_an_error_that_names_it(
    folder: Path, mirror: tuple[str, type[Mirror]], scratch: Path, damage
):
    name = MNIST.resources[2][0]
    damage(folder / name)
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        fetch(Download(retries=0), mirror[0], scratch, silent)
    assert f"{mirror[0]}/{name}: damaged: " in str(error.value)
    assert not list(scratch.iterdir())


def test_a_transfer_that_breaks_off_is_an_error_that_names_the_file(mirror: tuple[str, type[Mirror]], scratch: Path):
    mirror[1].breaks_off = True
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: broke off after 10 bytes"):
        fetch(NO_RETRY, mirror[0], scratch, silent)
    assert not list(scratch.iterdir())


def test_a_file_that_a_folder_lacks_is_an_error_that_names_it(folder: Path, scratch: Path):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz: not there; the folder must hold train-images"):
        fetch(NO_RETRY, str(folder), scratch, silent)


def test_a_whole_copy_elsewhere_makes_up_for_a_damaged_one(
    folder: Path, mirror: tuple[str, type[Mirror]], scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad = tmp_path / "bad"
    bad.mkdir()
    for name, _ in MNIST.resources:
        (bad / name).write_bytes(b"not it")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(type("Bad", (Mirror,), {"asked": []}), directory=bad)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/", mirror[0] + "/"])
        assert fetch(NO_RETRY, None, scratch, silent).name == "MNIST"
        server.shutdown()


# Data sets other than MNIST


def test_fashion_mnist_and_kmnist_are_read_by_the_same_code(
    folder: Path, scratch: Path, sample: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """The files have the format and the names of theirs; the images may be MNIST's."""
    for dataset, kind, name in (("fashion-mnist", FashionMNIST, "Fashion-MNIST"), ("kmnist", KMNIST, "KMNIST")):
        monkeypatch.setattr(kind, "resources", MNIST.resources)
        fetched = fetch(Download(dataset=dataset, retries=0), str(folder), scratch, silent)
        assert (fetched.name, fetched.spec.classes) == (name, 10)
        assert equal(fetched.test, Split(sample.test.images[:20], sample.test.labels[:20]))


def test_one_data_sets_files_are_not_taken_for_anothers(folder: Path, scratch: Path):
    with pytest.raises(UserError, match=r"gz: this is MNIST's file, and not Fashion-MNIST's$"):
        fetch(Download(dataset="fashion-mnist"), str(folder), scratch, silent)


@pytest.mark.parametrize(("split", "classes", "first"), [("letters", 26, 1), ("balanced", 47, 0)])
def test_emnist_comes_upright_with_labels_from_0(
    split: str,
    classes: int,
    first: int,
    scratch: Path,
    tmp_path: Path,
    sample: Dataset,
    monkeypatch: pytest.MonkeyPatch,
):
    """EMNIST's one archive holds all its data sets, with transposed images; its letters are numbered from 1."""
    images, labels = sample.train.images[:60], torch.arange(60) % classes
    archive = tmp_path / "gzip.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in ("train", "test"):
            for name, magic, tensor in (
                ("images-idx3", 2051, images[..., 0].transpose(1, 2)),
                ("labels-idx1", 2049, (labels + first).to(torch.uint8)),
            ):
                header = struct.pack(f">{1 + tensor.ndim}i", magic, *tensor.shape)
                content = gzip.compress(header + tensor.contiguous().numpy().tobytes(), mtime=0)
                file.writestr(f"gzip/emnist-{split}-{part}-{name}-ubyte.gz", content)
    monkeypatch.setattr(EMNIST, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    fetched = fetch(Download(dataset=f"emnist-{split}"), str(tmp_path), scratch, silent)
    assert (fetched.name, fetched.spec.classes) == (f"EMNIST {split}", classes)
    assert equal(fetched.train, Split(images, labels))


def in_cifars_format(folder: Path, images: np.ndarray, labels: list[int], *, hundred: bool) -> Path:
    """Write an archive of pickled batches of rows, the red pixels first, as the authors of CIFAR did."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    key, base = ("fine_labels", "cifar-100-python") if hundred else ("labels", "cifar-10-batches-py")
    parts = {"train": slice(50), "test": slice(50, 60)}
    if not hundred:
        parts = {f"data_batch_{n + 1}": slice(10 * n, 10 * n + 10) for n in range(5)} | {"test_batch": slice(50, 60)}
    contents = {name: {"data": rows[part], key: labels[part]} for name, part in parts.items()}
    names = [f"class {number}" for number in range(100 if hundred else 10)]
    contents["meta" if hundred else "batches.meta"] = {"fine_label_names" if hundred else "label_names": names}
    archive = folder / f"{'cifar-100' if hundred else 'cifar-10'}-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            (folder / name).write_bytes(pickle.dumps(content))
            tar.add(folder / name, f"{base}/{name}")
    return archive


@pytest.mark.parametrize(("dataset", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_comes_in_colour(
    dataset: str, kind: type[CIFAR10], scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    labels = [number % 10 for number in range(60)]
    archive = in_cifars_format(tmp_path, images, labels, hundred=dataset == "cifar100")

    def known(name: str) -> str:
        return hashlib.md5((tmp_path / name).read_bytes()).hexdigest()

    monkeypatch.setattr(kind, "tgz_md5", known(archive.name))
    monkeypatch.setattr(kind, "train_list", [[name, known(name)] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, known(name)] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": known(kind.meta["filename"])})
    fetched = fetch(Download(dataset=dataset), str(tmp_path), scratch, silent)
    assert fetched.name == ORIGINALS[dataset].name
    assert fetched.spec.shape == (32, 32, 3)
    assert len(fetched.class_names) == fetched.spec.classes == ORIGINALS[dataset].classes
    assert equal(fetched.train, Split(torch.from_numpy(images[:50]), torch.tensor(labels[:50])))
    assert equal(fetched.test, Split(torch.from_numpy(images[50:]), torch.tensor(labels[50:])))
    archive.write_bytes(b"not it")
    with pytest.raises(UserError, match=rf"{archive.name}: damaged: 6 bytes"):
        fetch(Download(dataset=dataset), str(tmp_path), scratch, silent)


def test_svhn_comes_in_colour_with_0_for_its_label_10(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30) % 10
    split_list = {}
    for split, part in (("train", slice(20)), ("test", slice(20, 30))):
        path = tmp_path / f"{split}_32x32.mat"
        known = {"X": images[part].transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[part, None]}
        scipy.io.savemat(path, known)
        split_list[split] = [SVHN.split_list[split][0], path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", split_list)
    fetched = fetch(Download(dataset="svhn"), str(tmp_path), scratch, silent)
    assert equal(fetched.train, Split(torch.from_numpy(images[:20]), torch.from_numpy(labels[:20])))
    assert equal(fetched.test, Split(torch.from_numpy(images[20:]), torch.from_numpy(labels[20:])))


def test_one_variable_names_the_source_of_every_data_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It holds a folder for each; the older one names the folder itself."""
    monkeypatch.setenv("FEDPIPE_DATA", str(tmp_path / "sets"))
    assert sources.named_source("mnist") == str(tmp_path / "sets/mnist")
    assert sources.named_source("emnist-letters") == str(tmp_path / "sets/emnist")
    (tmp_path / "sets").mkdir()
    folder.rename(tmp_path / "sets/mnist")
    (tmp_path / "scratch").mkdir()
    assert fetch(NO_RETRY, sources.named_source("mnist"), tmp_path / "scratch", silent).name == "MNIST"
    with pytest.raises(UserError, match=r"sets/kmnist: not there; FEDPIPE_DATA names a folder that must hold kmnist/"):
        fetch(Download(dataset="kmnist"), sources.named_source("kmnist"), tmp_path / "scratch", silent)
    monkeypatch.delenv("FEDPIPE_DATA")
    monkeypatch.setenv("FEDPIPE_MNIST", "there")
    assert sources.named_source("mnist") == "there"


@pytest.mark.parametrize("dataset", ORIGINALS)
def test_torchvision_knows_each_data_set_and_where_it_is(dataset: str):
    original = ORIGINALS[dataset]
    kind = getattr(torchvision.datasets, original.kind)
    assert original.split is None or original.split in kind.splits
    for file in sources._files(kind):
        assert len(file.md5) == 32
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in file.mirrors)


def test_there_is_no_offline_sample_of_another_data_set(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(KMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=r"^KMNIST: no source answers: .*; set FEDPIPE_DATA=DIR_OR_URL$"):
        fetch(Download(dataset="kmnist", retries=0), None, scratch, silent)


# The offline sample


def test_without_an_answer_the_sample_stands_in_and_says_so(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    dataset = fetch(Download(retries=0), None, scratch, said.append)
    assert dataset.name == "MNIST sample (5,000 images)"
    assert "no source answers" in said[-1]


def test_without_an_answer_it_is_an_error_where_the_sample_is_not_allowed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=r"set FEDPIPE_DATA=DIR_OR_URL, or allow download\.offline_sample"):
        fetch(NO_RETRY, None, scratch, silent)


def test_the_sample_is_split_by_class_without_overlap(sample: Dataset):
    assert torch.bincount(sample.train.labels).tolist() == [400] * 10
    assert torch.bincount(sample.test.labels).tolist() == [100] * 10
    assert sample.train.images.shape == (4000, 28, 28, 1)
    assert sample.train.images.dtype == torch.uint8
    seen = [image.numpy().tobytes() for split in (sample.train, sample.test) for image in split.images]
    assert len(set(seen)) == 5000


def test_the_sample_is_always_the_same(sample: Dataset, scratch: Path):
    again = fetch(Download(retries=0), None, scratch, silent)
    assert equal(sample.train, again.train)
    assert equal(sample.test, again.test)


# On disk


def test_what_is_saved_is_what_is_loaded_and_described(sample: Dataset, tmp_path: Path):
    save(sample, tmp_path)
    assert equal(load(tmp_path / "train.safetensors"), sample.train)
    assert equal(load(tmp_path / "test.safetensors"), sample.test)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["name"] == describe(tmp_path / "dataset.json").name == sample.name
    assert describe(tmp_path / "dataset.json").spec == sample.spec == DataSpec(28, 28, 1, 10, (0.1307,), (0.3081,))
    assert description["class_names"] == list("0123456789")
    assert (description["train_examples"], description["test_examples"]) == (4000, 1000)
    digest = hashlib.sha256(sample.train.images.numpy().tobytes()).hexdigest()
    assert description["sha256"]["train_images"] == digest


@pytest.mark.skipif(not MNIST_SOURCE, reason="FEDPIPE_DATA names no source of MNIST")
def test_mnist_is_60_000_and_10_000_images(scratch: Path):
    dataset = fetch(NO_RETRY, MNIST_SOURCE, scratch, silent)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert torch.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
