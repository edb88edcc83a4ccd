"""Whatever happens to a file that is read, one line names it, and no wrong result is made of it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fedpipe import baseline
from fedpipe.data import datasets
from fedpipe.data.store import ClientStore
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, run
from fedpipe.federated.context import LocalTraining
from fedpipe.models.logistic import Logistic
from fedpipe.results import comparison
from fedpipe.system.errors import UserError
from tests.federations import experiment_of

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped_early(path: Path) -> None:
    flip(path, 10)


def flipped_late(path: Path) -> None:
    flip(path, path.stat().st_size - 3)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def junk(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{[\n1,2\x00")


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES = [truncated, emptied, flipped_early, flipped_late, junk, removed, a_folder, a_loop, endless]
Damage = Callable[[Path], None]


@pytest.fixture
def data(folder: Path, test: Path, tmp_path: Path) -> FederatedData:
    """A copy of the federation's data, to be damaged."""
    shutil.copytree(folder, tmp_path / "shards")
    shutil.copytree(test.parent, tmp_path / "mnist")
    return FederatedData(dataset=tmp_path / "mnist", clients=tmp_path / "shards")


def said_of(path: Path, error: pytest.ExceptionInfo[UserError]) -> None:
    """Require that the error is one line which names the file, and how it is mended."""
    text = str(error.value)
    assert len(text.splitlines()) == 1, text
    assert str(path.parent) in text, text
    assert "dvc repro" in text, text


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["client-00002.safetensors", "manifest.csv", "manifest.sha256"])
def test_clients_examples_are_those_that_were_written(damage: Damage, file: str, data: FederatedData):
    path = data.clients / file
    damage(path)
    with pytest.raises(UserError) as error:
        ClientStore(data.clients).examples(2)
    said_of(path, error)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["test.safetensors", "dataset.json"])
def test_the_test_set_is_that_which_was_downloaded(damage: Damage, file: str, data: FederatedData):
    path = data.dataset / file
    damage(path)
    with pytest.raises(UserError) as error:
        run(experiment_of(rounds=1, model=Logistic(), local=SGD), data)
    said_of(path, error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_training_set_is_that_which_was_downloaded(damage: Damage, data: FederatedData):
    path = data.dataset / "train.safetensors"
    damage(path)
    experiment = baseline.CentralisedExperiment.model_validate(
        {"seed": 3, "model": {"name": "logistic"}, "compute": {"device": "cpu"}, "baseline": {"epochs": 1}}
    )
    with pytest.raises(UserError) as error:
        baseline.run(experiment, data.dataset)
    said_of(path, error)


def test_two_clients_examples_are_not_swapped(data: FederatedData):
    one, other = (data.clients / f"client-0000{number}.safetensors" for number in (1, 2))
    one_data, other_data = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_data)
    other.write_bytes(one_data)
    with pytest.raises(UserError, match="client-00002"):
        ClientStore(data.clients).examples(2)


def test_the_training_set_does_not_stand_for_the_test_set(data: FederatedData):
    shutil.copy(data.dataset / "train.safetensors", data.dataset / "test.safetensors")
    with pytest.raises(UserError, match="its images are not those that were downloaded"):
        datasets.load(data.dataset / "test.safetensors")


def test_a_manifest_leads_to_no_file_outside_its_folder(data: FederatedData):
    """Even if somebody made it with a right checksum."""
    manifest = data.clients / "manifest.csv"
    text = manifest.read_text().replace("client-00002.safetensors", "../../elsewhere.safetensors")
    manifest.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (data.clients / "manifest.sha256").write_text(f"{digest}  manifest.csv\n")
    with pytest.raises(UserError, match=r"elsewhere.safetensors is not a file of this folder"):
        ClientStore(data.clients)


def test_a_client_that_finds_its_examples_damaged_ends_the_run_in_a_line(data: FederatedData):
    """From a worker's process too."""
    for file in data.clients.glob("*.safetensors"):
        flipped_late(file)
    for engine in ("threads", "processes"):
        compute = Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu"})
        with pytest.raises(UserError, match=r"client \d's examples are not what was written"):
            run(experiment_of(rounds=1, model=Logistic(), local=SGD, compute=compute), data)


@pytest.mark.parametrize("damage", [truncated, emptied, junk, removed, a_folder, a_loop, endless])
def test_a_table_that_is_none_is_named(damage: Damage, tmp_path: Path):
    path = tmp_path / "rounds.csv"
    pd.DataFrame({"round": range(1, 50), "test_accuracy": 0.5}).to_csv(path, index=False)
    (tmp_path / "metrics.json").write_text(json.dumps({"federated": {"rounds": 49, "accuracy": 0.5}}))
    comparison.require_same_result(tmp_path / "metrics.json", path, comparison.read_table(path, "round"), "rounds")
    damage(path)

    def read() -> None:
        table = comparison.read_table(path, "round", "test_accuracy")
        comparison.require_same_result(tmp_path / "metrics.json", path, table, "rounds")

    with pytest.raises(UserError) as error:
        read()
    said_of(path, error)
