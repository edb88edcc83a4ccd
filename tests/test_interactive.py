"""The way in from Python: the same experiments as the pipeline's, without files, with data and classes of one's own."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

import fedpipe
from examples import fedavg, own_strategy
from fedpipe.data.datasets import Dataset, save
from fedpipe.data.partition.base import cut
from fedpipe.data.sources import SOURCE_VARIABLE
from fedpipe.data.store import ClientStore
from fedpipe.experiment import FederatedData
from fedpipe.experiment import run as run_files
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Aggregate, Update
from fedpipe.federated.sampling import Sampling
from fedpipe.federated.strategies.fedprox import FedProx
from fedpipe.models.logistic import Logistic
from fedpipe.spec import DataSpec
from fedpipe.system.errors import UserError
from fedpipe.training.images import normalised
from tests.federations import MNIST

SMALL: dict[str, Any] = {
    "model": "logistic",
    "rounds": 2,
    "clients": 6,
    "clients_per_round": 3,
    "local": {"epochs": 1, "optimizer": "sgd", "lr": 0.05, "batch_size": 50},
    "compute": {"engine": "threads", "workers": 1, "device": "cpu"},
    "quiet": True,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder without data."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def own() -> tuple[np.ndarray, np.ndarray]:
    """Images whose label can be seen, three classes of them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    images = rng.integers(60, size=(300, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[9 * label : 9 * label + 9] += 150
    return images, labels


def same(one: fedpipe.Result, other: Any) -> bool:
    return all(torch.equal(tensor, other.state.parameters[name]) for name, tensor in one.parameters.items())


def test_a_run_from_python_is_the_pipelines_run(folder: Path, test: Path, sample: Dataset):
    """On the same clients, to the last bit."""
    experiment = fedpipe.Experiment.model_validate(
        {
            "seed": 5,
            "model": {"name": "logistic"},
            "federated": {name: SMALL[name] for name in ("rounds", "clients_per_round", "local")},
            "compute": SMALL["compute"],
        }
    )
    expected = run_files(experiment, FederatedData(dataset=test.parent, clients=folder))
    store = ClientStore(folder)
    clients: list[Any] = [store.examples(client) for client in range(len(store))]
    given = (sample.test.images, sample.test.labels)
    constants: dict[str, Any] = {"mean": [0.1307], "std": [0.3081]}
    assert same(fedpipe.run(experiment, data=clients, test=given, quiet=True, **constants), expected)
    settings = {**SMALL, "seed": 5}
    del settings["clients"]
    assert same(fedpipe.run(data=clients, test=given, **constants, **settings), expected)


def test_without_data_the_sample_is_taken_and_said_and_no_file_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    result = fedpipe.run(**{**SMALL, "quiet": False})
    assert result.dataset == "MNIST sample (5,000 images)"
    said = capsys.readouterr().out
    assert "so this runs on its sample of 5,000 images; `dvc repro download` gets it" in said
    assert "round 2: test accuracy" in said
    assert list(tmp_path.rglob("*")) == [scratch]
    assert fedpipe.run(**SMALL).accuracy == result.accuracy
    assert capsys.readouterr().out == ""


def test_the_pipelines_data_set_is_taken_if_it_is_there(sample: Dataset, tmp_path: Path):
    save(replace(sample, name="the pipeline's"), tmp_path / "data/dataset")
    assert fedpipe.run(**SMALL).dataset == "the pipeline's"
    assert fedpipe.run(data=tmp_path / "data/dataset", **SMALL).dataset == "the pipeline's"


def test_own_data_is_divided_a_tenth_held_out_to_test_on(own: tuple[np.ndarray, np.ndarray]):
    images, labels = own
    result = fedpipe.run(data=(images, labels), scheme="dirichlet", dirichlet={"alpha": 1.0}, **SMALL)
    assert (result.dataset, result.spec.classes) == ("own data", 3)
    assert result.test.confusion.sum() == 30
    assert result.accuracy > 0.9
    tensors = torch.from_numpy(images), torch.from_numpy(labels)
    assert same(fedpipe.run(data=tensors, scheme="dirichlet", dirichlet={"alpha": 1.0}, **SMALL), result)


def test_clients_may_bring_their_own_data(own: tuple[np.ndarray, np.ndarray]):
    images, labels = own
    clients = [(images[start::4], labels[start::4]) for start in range(4)]
    settings = {name: value for name, value in SMALL.items() if name != "clients"}
    result = fedpipe.run(data=clients, **settings)
    assert set(result.clients["client"]) <= set(range(4))
    assert set(result.clients["examples"]) == {67}  # 75 each, of which 8 are tested on
    assert result.test.confusion.sum() == 4 * 8


def test_the_tables_are_those_of_the_pipeline():
    result = fedpipe.run(**SMALL)
    assert result.rounds["round"].tolist() == [1, 2]
    assert result.rounds["test_accuracy"].iloc[-1] == result.accuracy
    assert len(result.clients) == 6
    assert repr(result).startswith("<fedavg on MNIST sample (5,000 images): test accuracy ")
    assert "<table" in result._repr_html_()


def test_the_module_is_plain_torch(sample: Dataset):
    """A user's own lines come to the same accuracy."""
    result = fedpipe.run(**{**SMALL, "model": "reference-cnn", "rounds": 1})
    module = result.module()
    with torch.inference_mode():
        pixels = sample.test.images.permute(0, 3, 1, 2).float()
        predicted = module((pixels / 255 - 0.1307) / 0.3081).argmax(dim=1)
    assert isinstance(module, nn.Module)
    assert not module.training
    assert (predicted == sample.test.labels).float().mean().item() == pytest.approx(result.accuracy, abs=0.002)
    predicted = torch.cat([module(normalised(some, MNIST)).argmax(1) for some in sample.test.images.split(100)])
    assert result.test.confusion.tolist() == confusion_matrix(sample.test.labels, predicted).tolist()


def test_the_plot_shows_the_accuracy_of_each_round(tmp_path: Path):
    result = fedpipe.run(**SMALL)
    drawn = result.plot().to_dict()
    [rows] = drawn["datasets"].values()
    assert [row["test_accuracy"] for row in rows] == result.rounds["test_accuracy"].tolist()
    result.plot().save(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


class Halved(fedpipe.Transform):
    """Send half of each update."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta / 2)


class Doubled(Halved):
    """Send twice each update."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta * 2)


class Straight(fedpipe.Partitioner):
    """Cut the examples as they come."""

    def assign(self, labels: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        return cut(np.arange(len(labels)), weights)


class Linear(fedpipe.Model):
    """Logistic regression, written by a user."""

    def build(self, spec: DataSpec) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(spec.values, spec.classes))


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_what_a_user_wrote_takes_the_place_of_a_name(engine: str):
    """An object of the library's own class does what its name does, to the last bit."""
    settings = {**SMALL, "compute": {**SMALL["compute"], "engine": engine}}
    named = fedpipe.run(strategy="fedprox", fedprox={"mu": 0.5}, **settings)
    for own in (
        {"strategy": FedProx(mu=0.5)},
        {"strategy": FedProx(mu=0.5), "aggregation": Mean(), "model": Logistic()},
        {"strategy": FedProx(mu=0.5), "transforms": [Halved(), Doubled()]},
    ):
        assert same(fedpipe.run(**{**settings, **own}), named)
    halved = fedpipe.run(strategy=FedProx(mu=0.5), transforms=Halved(), **settings)
    assert not same(halved, named)
    result = fedpipe.run(**{**settings, "model": Linear(), "scheme": Straight(), "strategy": own_strategy.FedMom()})
    assert result.accuracy > 0.2
    assert repr(result).startswith("<FedMom on ")


def test_fedavg_written_out_gives_the_same_bits():
    """examples/fedavg.py."""
    torch.set_num_threads(1)
    *_, written_out = fedavg.fedavg()
    result = fedpipe.run(
        seed=fedavg.SEED, clients=fedavg.K, clients_per_round=fedavg.COHORT, rounds=fedavg.ROUNDS, quiet=True,
        local={"epochs": fedavg.E, "batch_size": fedavg.B, "optimizer": "sgd", "lr": fedavg.RATE},
    )  # fmt: skip
    assert all(torch.equal(tensor, written_out[name]) for name, tensor in result.parameters.items())


def test_fedmom_is_its_papers():
    """examples/own_strategy.py beside Huo et al. 2020, arXiv:2002.02090, algorithm 2, step by step."""
    fedmom, state = own_strategy.FedMom(lr=0.5, beta=0.9), {}
    w = v = torch.tensor([1.0, -2.0], dtype=torch.float64)
    weights = w
    for delta in torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], dtype=torch.float64):
        following = w + 0.5 * delta
        w, v = following + 0.9 * (following - v), following
        weights, state = fedmom.server_update(weights, Aggregate(delta), state)
        torch.testing.assert_close(weights, w)


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {**SMALL, "rounds": 4, "strategy": "scaffold"}
    settings["compute"] = {**SMALL["compute"], "checkpoint_every": 0.0}
    expected = fedpipe.run(**settings)
    trained: list[int] = []
    draw = Sampling.draw

    def interrupting(self: Any, sizes: Any, epochs: int, seed: int, round: int) -> Any:
        trained.append(round)
        if trained == [1, 2, 3]:
            raise KeyboardInterrupt
        return draw(self, sizes, epochs, seed, round)

    monkeypatch.setattr(Sampling, "draw", interrupting)
    with pytest.raises(KeyboardInterrupt):
        fedpipe.run(checkpoint=tmp_path / "saved", **settings)
    result = fedpipe.run(checkpoint=tmp_path / "saved", **settings)
    assert trained == [1, 2, 3, 3, 4]
    assert same(result, expected)
    assert len(result.rounds) == 4


def test_a_checkpoint_belongs_to_the_class_that_made_it(tmp_path: Path):
    settings = fedpipe.Experiment.model_validate({"federated": {"strategy": own_strategy.FedMom()}})
    said = settings.model_dump(mode="json")["federated"]["strategy"]
    assert said["class"] == "examples.own_strategy:FedMom"
    assert re.fullmatch("[0-9a-f]{64}", said["code"])
    assert said["beta"] == 0.9
    unreadable = type("Unreadable", (FedProx,), {"__module__": "builtins"})
    with pytest.raises(UserError, match=r"^Unreadable: its code cannot be read; define it in a file or a notebook$"):
        fedpipe.run(strategy=unreadable(), checkpoint=tmp_path, **SMALL)


IMAGES, LABELS = np.zeros((20, 28, 28), np.uint8), np.zeros(20, int)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"stratgy": "fedavg"}, "stratgy: unknown parameter; did you mean strategy?"),
    ({"strategy": "fedprix"}, 'federated.strategy: "fedprix" is not one of'),
    ({"rounds": 0}, "federated.rounds: 0 must be greater than 0"),
    ({"model": "3nn"}, 'model.name: "3nn" is not one of'),
    ({"transforms": [Halved(), Halved()]}, 'federated.transforms: ["Halved", "Halved"]: two of one class'),
    ({"clients_per_round": 9}, "federated.clients_per_round: 9 exceeds the 6 clients"),
    ({"data": "nowhere"}, "nowhere: not there; it must be a folder"),
    ({"data": (IMAGES,)}, "data: not a pair of images and labels"),
    (
        {"data": (IMAGES / 255, LABELS)},
        "data: images are (20, 28, 28) float64, and must be (n, height, width) or (n, height, width, channels) uint8",
    ),
    (
        {"data": (IMAGES[0], LABELS)},
        "data: images are (28, 28) uint8, and must be (n, height, width) or (n, height, width, channels) uint8",
    ),
    (
        {"data": (IMAGES, LABELS), "test": (IMAGES[:, 2:], LABELS)},
        "test: images are (20, 26, 28, 1) uint8, unlike those of data: (20, 28, 28, 1) uint8",
    ),
    (
        {"data": (IMAGES, LABELS), "mean": [0.1]},
        "std: missing, but the other of mean and std is given; give both, or neither",
    ),
    (
        {"data": (IMAGES, LABELS), "mean": [0.1] * 3, "std": [0.1] * 3},
        "download.mean: 3 numbers, but images have 1 channels",
    ),
    ({"data": (IMAGES, LABELS[1:])}, "data: labels are (19,) int64, and must be (20,) of whole numbers"),
    ({"data": (IMAGES, LABELS - 1)}, "data: labels below 0"),
    ({"data": (IMAGES[:0], LABELS[:0])}, "data: no examples"),
    ({"data": ("cats", LABELS)}, "data: neither an array nor a tensor"),
    ({"data": (IMAGES[:4], LABELS[:4])}, "data: too few examples to test on a tenth of them; give a test set"),
    ({"data": [(IMAGES, LABELS)]}, "data: a list of clients' own, which nothing divides"),
    ({"test": (IMAGES, LABELS)}, "test: the data set has a test set of its own"),
]


@pytest.mark.parametrize(("given", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_a_line(given: dict[str, Any], said: str):
    with pytest.raises(UserError) as error:
        fedpipe.run(**{**SMALL, **given})
    assert str(error.value).startswith(said)
    assert len(str(error.value).splitlines()) == 1
