"""A client finds its examples on disk by its number, however many clients there are."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedpipe.data import store
from fedpipe.data.store import open_store
from fedpipe.system.errors import UserError
from fedpipe.system.randomness import generator


def write(folder: Path, sizes: list[int]) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    """Write a store of clients of these sizes; return all images and labels, and each client's indices."""
    rng = generator(0, "test")
    n = max(sum(sizes), 1)
    images = torch.from_numpy(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, n))
    assignment = np.split(rng.permutation(n)[: sum(sizes)], np.cumsum(sizes)[:-1])
    store.write(folder, images, labels, assignment, 10)
    return images, labels, assignment


@pytest.mark.parametrize("sizes", [[5], [3, 1, 7], [1, 2] * 1100, [3, 400]])
def test_a_client_finds_its_examples_in_order(tmp_path: Path, sizes: list[int]):
    """Both from a small file, which is read whole, and from one larger than store.SMALL, which is mapped."""
    images, labels, assignment = write(tmp_path / "clients", sizes)
    clients = open_store(tmp_path / "clients")
    assert len(clients) == len(sizes)
    assert clients.sizes.tolist() == sizes
    for client, indices in enumerate(assignment):
        found_images, found_labels = clients.examples(client)
        assert torch.equal(found_images, images[indices])
        assert torch.equal(found_labels, labels[indices])


def test_the_sizes_are_known_without_an_example(tmp_path: Path):
    """The server knows the sizes alone, from the manifest."""
    write(tmp_path / "clients", [3, 1, 7])
    for file in (tmp_path / "clients").glob("*.safetensors"):
        file.unlink()
    assert open_store(tmp_path / "clients").sizes.tolist() == [3, 1, 7]


def test_a_store_that_was_written_anew_is_read_anew(tmp_path: Path):
    """The manifest is read once in a process, but not past a change."""
    for sizes in ([3, 1, 7], [5, 6]):
        images, _, assignment = write(tmp_path / "clients", sizes)
        clients = open_store(tmp_path / "clients")
        assert clients.sizes.tolist() == sizes
        assert torch.equal(clients.examples(1)[0], images[assignment[1]])
        assert open_store(tmp_path / "clients") is clients


def test_on_an_accelerator_a_clients_examples_are_copied_once(tmp_path: Path):
    """With torch's device without memory in the accelerator's place."""
    write(tmp_path / "clients", [3, 1])
    clients = open_store(tmp_path / "clients")
    images, labels = clients.examples(0, torch.device("meta"))
    assert (images.device.type, labels.device.type, images.shape) == ("meta", "meta", (3, 28, 28))
    assert clients.examples(0, torch.device("meta"))[0] is images


@given(st.integers(1, 10**5))
def test_there_is_a_file_for_each_client_or_at_most_a_thousand_of_about_equal_length(clients: int):
    groups = store._grouped(clients)
    assert [client for group in groups for client in group] == list(range(clients))
    assert len(groups) == min(clients, store.MAX_FILES)
    lengths = {len(group) for group in groups}
    assert max(lengths) - min(lengths) <= 1
    assert len({store._name(group, clients) for group in groups}) == len(groups)


def test_files_say_whose_examples_they_hold(tmp_path: Path):
    write(tmp_path / "few", [2, 2])
    assert sorted(path.name for path in (tmp_path / "few").iterdir()) == [
        "SHA256SUMS", "client-00000.safetensors", "client-00001.safetensors", "manifest.csv",
    ]  # fmt: skip
    write(tmp_path / "many", [1] * 2500)
    names = sorted(path.name for path in (tmp_path / "many").glob("client-*"))
    assert len(names) == 1000
    assert names[0] == "client-00000-00002.safetensors"


def test_the_manifest_tells_of_each_client(tmp_path: Path):
    images, labels, assignment = write(tmp_path / "clients", [3, 1, 490])
    manifest = pd.read_csv(tmp_path / "clients/manifest.csv")
    assert list(manifest) == [
        "client", "file", "start", "examples", "held_out", *(f"label_{label}" for label in range(10)), "sha256",
    ]  # fmt: skip
    assert manifest["examples"].tolist() == [3, 1, 490]
    for row, indices in zip(manifest.to_dict("records"), assignment, strict=True):
        content = images[indices].numpy().tobytes() + labels[indices].numpy().tobytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert [row[f"label_{label}"] for label in range(10)] == np.bincount(labels[indices], minlength=10).tolist()


def test_what_a_client_holds_out_lies_behind_what_it_trains_on(tmp_path: Path):
    images, labels = torch.randint(0, 256, (9, 28, 28), dtype=torch.uint8), torch.arange(9)
    assignment, held_out = [np.array([0, 1]), np.array([2, 3, 4])], [np.array([5]), np.array([], dtype=int)]
    store.write(tmp_path / "clients", images, labels, assignment, 10, held_out=held_out)
    clients = open_store(tmp_path / "clients")
    assert clients.sizes.tolist() == [2, 3]
    assert [clients.held_out_size(client) for client in (0, 1)] == [1, 0]
    assert torch.equal(clients.examples(0)[0], images[:2])
    assert torch.equal(clients.held_out(0)[0], images[[5]])
    assert clients.examples(1)[1].tolist() == [2, 3, 4]
    assert len(clients.held_out(1)[1]) == 0
    manifest = pd.read_csv(tmp_path / "clients/manifest.csv")
    assert manifest[["examples", "held_out", "label_5"]].to_numpy().tolist() == [[2, 1, 0], [3, 0, 0]]


def test_images_may_look_different_to_each_client(tmp_path: Path):
    images, labels = torch.full((4, 28, 28), 7, dtype=torch.uint8), torch.arange(4)
    assignment = [np.array([0, 1]), np.array([2, 3])]
    store.write(tmp_path / "clients", images, labels, assignment, 10, appearance=lambda images, client: images + client)
    clients = open_store(tmp_path / "clients")
    assert [int(clients.examples(client)[0].unique()) for client in (0, 1)] == [7, 8]


@pytest.mark.parametrize("size", [3, 400])
def test_missing_or_damaged_files_are_named(tmp_path: Path, size: int):
    with pytest.raises(UserError, match=r"manifest\.csv: not there; `dvc repro partition` makes it"):
        open_store(tmp_path)
    write(tmp_path / "clients", [size])
    clients, file = open_store(tmp_path / "clients"), tmp_path / "clients/client-00000.safetensors"
    file.write_bytes(file.read_bytes()[: -100 * size])
    for read in (clients.examples, clients.held_out):
        with pytest.raises(UserError, match=r"client-00000\.safetensors: damaged"):
            read(0)
    file.unlink()
    for read in (clients.examples, clients.held_out):
        with pytest.raises(UserError, match=r"client-00000\.safetensors: not there"):
            read(0)
