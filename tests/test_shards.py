"""A client's shard on disk holds its examples, however many clients there are."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedpipe import shards
from fedpipe.errors import UserError
from fedpipe.randomness import generator


def write(folder: Path, sizes: list[int]) -> tuple[Tensor, Tensor, list[np.ndarray]]:
    rng = generator(0, "test")
    n = max(sum(sizes), 1)
    images = torch.from_numpy(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, n))
    assignment = np.split(rng.permutation(n)[: sum(sizes)], np.cumsum(sizes)[:-1])
    shards.write(folder, images, labels, assignment, 10)
    return images, labels, assignment


@pytest.mark.parametrize("sizes", [[5], [3, 1, 7], [1, 2] * 1100])
def test_a_client_finds_its_own_examples_in_order(tmp_path: Path, sizes: list[int]):
    images, labels, assignment = write(tmp_path / "shards", sizes)
    population = shards.locate(tmp_path / "shards")
    assert [len(shard) for shard in population] == sizes
    for shard, indices in zip(population, assignment, strict=True):
        found_images, found_labels = shards.read(shard)
        assert torch.equal(found_images, images[indices])
        assert torch.equal(found_labels, labels[indices])


@given(st.integers(1, 10**5))
def test_there_is_a_file_for_each_client_or_at_most_a_thousand_of_about_equal_length(clients: int):
    groups = shards._grouped(clients)
    assert [client for group in groups for client in group] == list(range(clients))
    assert len(groups) == min(clients, shards.MAX_FILES)
    lengths = {len(group) for group in groups}
    assert max(lengths) - min(lengths) <= 1
    assert len({shards._name(group, clients) for group in groups}) == len(groups)


def test_files_say_whose_examples_they_hold(tmp_path: Path):
    write(tmp_path / "few", [2, 2])
    assert sorted(path.name for path in (tmp_path / "few").iterdir()) == [
        "client-00000.safetensors", "client-00001.safetensors", "manifest.csv",
    ]  # fmt: skip
    write(tmp_path / "many", [1] * 2500)
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert len(names) == 1001
    assert names[0] == "client-00000-00002.safetensors"


def test_the_manifest_tells_of_each_client(tmp_path: Path):
    images, labels, assignment = write(tmp_path / "shards", [3, 1, 490])
    manifest = pd.read_csv(tmp_path / "shards/manifest.csv")
    assert list(manifest) == [
        "client", "file", "start", "examples", "held_out", *(f"label_{label}" for label in range(10)), "sha256",
    ]  # fmt: skip
    assert manifest["examples"].tolist() == [3, 1, 490]
    for row, indices in zip(manifest.to_dict("records"), assignment, strict=True):
        content = images[indices].numpy().tobytes() + labels[indices].numpy().tobytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert [row[f"label_{label}"] for label in range(10)] == np.bincount(labels[indices], minlength=10).tolist()


def test_what_a_client_keeps_for_testing_lies_behind_what_it_trains_on(tmp_path: Path):
    images, labels = torch.randint(0, 256, (9, 28, 28), dtype=torch.uint8), torch.arange(9)
    assignment, held_out = [np.array([0, 1]), np.array([2, 3, 4])], [np.array([5]), np.array([], dtype=int)]
    shards.write(tmp_path / "shards", images, labels, assignment, 10, held_out=held_out)
    one, other = shards.locate(tmp_path / "shards")
    assert (len(one), one.held_out, len(other), other.held_out) == (2, 1, 3, 0)
    assert torch.equal(shards.read(one)[0], images[:2])
    assert torch.equal(shards.read(one.holdout)[0], images[[5]])
    assert shards.read(other)[1].tolist() == [2, 3, 4]
    assert len(shards.read(other.holdout)[1]) == 0
    manifest = pd.read_csv(tmp_path / "shards/manifest.csv")
    assert manifest[["examples", "held_out", "label_5"]].to_numpy().tolist() == [[2, 1, 0], [3, 0, 0]]


def test_a_client_may_see_its_images_in_its_own_way(tmp_path: Path):
    images, labels = torch.full((4, 28, 28), 7, dtype=torch.uint8), torch.arange(4)
    assignment = [np.array([0, 1]), np.array([2, 3])]
    shards.write(tmp_path / "shards", images, labels, assignment, 10, look=lambda images, client: images + client)
    assert [int(shards.read(shard)[0].unique()) for shard in shards.locate(tmp_path / "shards")] == [7, 8]


def test_missing_or_damaged_shards_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"manifest\.csv: not there; `dvc repro partition` makes it"):
        shards.locate(tmp_path)
    write(tmp_path / "shards", [3])
    [shard] = shards.locate(tmp_path / "shards")
    shard.path.write_bytes(shard.path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"client-00000\.safetensors: damaged"):
        shards.read(shard)
    shard.path.unlink()
    with pytest.raises(UserError, match=r"client-00000\.safetensors: not there"):
        shards.read(shard)
