"""Whatever happens to a file that is read, one line names it, and no wrong result is made of it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedpipe import baseline
from fedpipe.data import datasets
from fedpipe.data.sources import Download, offline_sample
from fedpipe.data.store import ClientStore
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, Result, run
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.state import ClientStates
from fedpipe.models.logistic import Logistic
from fedpipe.results import comparison
from fedpipe.system import files
from fedpipe.system.errors import UserError
from tests.federations import experiment_of

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)
CENTRALISED = baseline.CentralisedExperiment.model_validate(
    {"seed": 3, "model": {"name": "logistic"}, "compute": {"device": "cpu"}, "baseline": {"epochs": 1}}
)


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
@pytest.mark.parametrize("file", ["client-00002.safetensors", "manifest.csv", "SHA256SUMS"])
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


@pytest.fixture
def validated(data: FederatedData) -> FederatedData:
    """The same, with validation data."""
    datasets.save(offline_sample(Download(validation=0.1)), data.dataset)
    return data


@pytest.mark.parametrize("damage", DAMAGES)
def test_validation_data_are_those_that_were_held_back(damage: Damage, validated: FederatedData):
    path = validated.dataset / "validation.safetensors"
    damage(path)
    for attempt in (
        lambda: run(experiment_of(rounds=1, model=Logistic(), local=SGD), validated),
        lambda: baseline.run(CENTRALISED, validated.dataset),
    ):
        with pytest.raises(UserError) as error:
            attempt()
        said_of(path, error)


def test_a_description_from_before_there_were_validation_data_is_named(data: FederatedData):
    path = data.dataset / "dataset.json"
    description = json.loads(path.read_text())
    del description["validation_examples"]
    files.write_json(path, description)
    with pytest.raises(UserError) as error:
        datasets.describe(path)
    said_of(path, error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_training_set_is_that_which_was_downloaded(damage: Damage, data: FederatedData):
    path = data.dataset / "train.safetensors"
    damage(path)
    with pytest.raises(UserError) as error:
        baseline.run(CENTRALISED, data.dataset)
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
    (data.clients / files.SUMS).write_text(f"{digest}  manifest.csv\n")
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


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["rounds.csv", "figures.json", files.SUMS])
def test_reports_that_a_stage_reads_are_those_that_were_written(damage: Damage, file: str, tmp_path: Path):
    files.write_table(tmp_path / "rounds.csv", [{"round": number, "test_accuracy": 0.5} for number in range(1, 50)])
    files.write_json(tmp_path / "figures.json", {"dataset": "MNIST", "accuracy": 0.5, "diverged": False})
    files.write_sums(tmp_path, "rounds.csv", "figures.json")

    def read() -> tuple[int, float]:
        rounds = comparison.read_table(tmp_path / "rounds.csv", "federated", "round")
        return len(rounds), comparison.read_figures(tmp_path / "figures.json", "federated")["accuracy"]

    assert read() == (49, 0.5)
    damage(tmp_path / file)
    with pytest.raises(UserError) as error:
        read()
    said_of(tmp_path / file, error)


@pytest.mark.parametrize("text", ["", "round\n", "epoch\n1\n", '"round\n1\n', "round\n1,2\n3,4,5\n"])
def test_a_table_that_is_none_is_named(text: str, tmp_path: Path):
    """Even if somebody made it with a right checksum."""
    path = tmp_path / "rounds.csv"
    files.write_text(path, text)
    files.write_sums(tmp_path, path.name)
    with pytest.raises(UserError) as error:
        comparison.read_table(path, "federated", "round")
    said_of(path, error)


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '"dataset"', '{"dataset": "MNIST"}'])
def test_figures_that_are_none_are_named(text: str, tmp_path: Path):
    """Even if somebody made them with a right checksum."""
    path = tmp_path / "figures.json"
    files.write_text(path, text)
    files.write_sums(tmp_path, path.name)
    with pytest.raises(UserError) as error:
        comparison.read_figures(path, "federated")
    said_of(path, error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_clients_state_is_that_which_it_wrote(damage: Damage, tmp_path: Path):
    states = ClientStates(tmp_path / "files")
    parts = {"strategy": {"control": torch.arange(100.0)}}
    states.write(2, 4, parts, last_round=0, oldest_round=0)
    assert torch.equal(states.read(2, 4)["strategy"]["control"], torch.arange(100.0))
    file = tmp_path / "files/client-00002/round-00004.state"
    damage(file)
    with pytest.raises(UserError) as error:
        states.read(2, 4)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(f"{file}: ")
    assert f"delete {tmp_path / 'files'}, and the run begins anew" in str(error.value)


@pytest.mark.parametrize(("client", "round"), [(3, 4), (2, 1)])
def test_another_clients_or_rounds_state_is_not_taken_for_it(client: int, round: int, tmp_path: Path):
    states = ClientStates(tmp_path)
    for each in ((2, 4), (client, round)):
        states.write(*each, {"strategy": {"control": torch.zeros(3)}}, last_round=0, oldest_round=0)
    other = tmp_path / f"client-{client:05d}/round-{round:05d}.state"
    shutil.copy(other, tmp_path / "client-00002/round-00004.state")
    with pytest.raises(UserError, match=rf"round-00004\.state: damaged \(it is client {client}'s, of round {round}\)"):
        states.read(2, 4)


def test_a_run_whose_clients_states_are_damaged_begins_anew_when_they_are_deleted(data: FederatedData, tmp_path: Path):
    """As the error says."""
    experiment = experiment_of(
        rounds=3, model=Logistic(), strategy="scaffold", local=SGD, compute=Compute(checkpoint_every=0.0)
    )
    expected = run(experiment, data)

    def interrupt(result: Result) -> None:
        if len(result.history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, data, checkpoint=tmp_path / "checkpoints", on_round=interrupt)
    for state in (tmp_path / "checkpoints").glob("*/files/*/*.state"):
        flipped_late(state)
    with pytest.raises(UserError) as error:
        run(experiment, data, checkpoint=tmp_path / "checkpoints")
    named = re.search(r"delete (\S+), and the run begins anew$", str(error.value))
    assert named
    shutil.rmtree(named[1])
    assert run(experiment, data, checkpoint=tmp_path / "checkpoints").state.encode() == expected.state.encode()
