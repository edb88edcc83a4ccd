"""Clients alone train as much as federation gives them, on their own examples, and say how good that is."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix
from torch import nn

from fedpipe import local
from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, evaluate_holdouts, iterate
from fedpipe.fairness import class_accuracies, own_labels_accuracy, spread
from fedpipe.local import Local, LocalExperiment, Result, examples_to_process, train_on
from fedpipe.models.base import Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import initial_parameters, network_with
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.pipeline import Pipeline, inputs
from fedpipe.results import gains
from fedpipe.system import files, forked
from fedpipe.system.errors import UserError
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import PLAIN
from fedpipe.training.images import normalised
from fedpipe.training.settings import Training
from tests.conftest import ROOT
from tests.federations import LOCAL, MNIST, SIZES, THREADS, Given, experiment_of, settings_of, start_of
from tests.test_damage import DAMAGES, Damage, flipped_late, said_of

SGD = LOCAL.model_copy(update={"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01})


def alone(
    *, model: Model | None = None, settings: Local | None = None, compute: Compute = THREADS, seed: int = 11,
    **federated: Any,
) -> LocalExperiment:  # fmt: skip
    """The same experiment as `tests.federations.experiment_of`, by each client alone."""
    return LocalExperiment(
        seed=seed, model=Given(given=model or Logistic()), federated=settings_of(**federated),
        local=settings or Local(), compute=compute,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(sample: Dataset, test: Path, tmp_path_factory: pytest.TempPathFactory) -> FederatedData:
    """The five clients of tests.federations, of which all but one hold out some examples besides."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    order = generator(2, "test").permutation(len(sample.train))
    parts = np.split(order[: sum(SIZES)], np.cumsum(SIZES)[:-1])
    held_out = [order[1000 + 40 * client : 1000 + 50 * client] for client in range(len(SIZES))]
    store.write(folder, sample.train.images, sample.train.labels, parts, 10, held_out=held_out)
    return FederatedData(dataset=test.parent, clients=folder)


def run(experiment: LocalExperiment, data: FederatedData, **more: Any) -> Result:
    return local.run(experiment, data.dataset, data.clients, **more)


# Training


@pytest.mark.parametrize(
    ("model", "training"), [(Logistic(), LOCAL), (Logistic(), SGD), (ReferenceCNN(), LOCAL)], ids=str
)
def test_a_client_alone_is_torchs_own_loop_on_its_shard(
    model: Model, training: Training, data: FederatedData, sample: Dataset
):
    """To the bit: 2.4 passes, of which the last ends after 0.4 of the examples, with one optimiser throughout."""
    client, passes = 4, Fraction("2.4")
    images, labels = store.open_store(data.clients).examples(client)
    network = network_with(model.on(MNIST), start_of(model))
    parameters, rng = list(network.parameters()), generator(11, "batches", round=1, client=client)
    optimizer = (
        torch.optim.Adam(parameters, lr=training.lr, fused=True)
        if training.optimizer == "adam"
        else torch.optim.SGD(
            parameters, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay, foreach=True
        )
    )
    torch.set_num_threads(1)
    for part in (1.0, 1.0, 0.4):
        order = rng.permutation(150)[: round(150 * part)]
        if part < 1:
            order = order[rng.permutation(len(order))]
        losses = []
        for batch in torch.from_numpy(order).split(32):
            loss = nn.functional.cross_entropy(network(normalised(images[batch], MNIST)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(batch))
    with torch.no_grad():
        logits = network.eval()(normalised(sample.test.images, MNIST))
    predictions = logits.argmax(1)

    experiment = alone(model=model, local=training, settings=Local(epochs=float(passes)))
    report = run(experiment, data).clients[client]
    assert report.examples_processed == 360
    assert report.epochs == 2.4
    assert report.test_accuracy == float((predictions == sample.test.labels).double().mean())
    assert report.train_loss == pytest.approx(sum(losses) / 60, rel=1e-12)
    loss = nn.functional.cross_entropy(logits.double(), sample.test.labels)
    assert report.test_loss == pytest.approx(float(loss), rel=1e-6)


def test_a_network_alone_has_the_bits_of_torchs_own_loop(sample: Dataset):
    """The parameters themselves, after one and a half passes in batches that do not divide the examples."""
    images, labels, model = sample.train.images[:50], sample.train.labels[:50], ReferenceCNN().on(MNIST)
    ours, theirs = (network_with(model, initial_parameters(model, 3)) for _ in range(2))
    train_on(ours, images, labels, MNIST, LOCAL, 75, generator(0, "batches"), PLAIN)
    rng, optimizer = generator(0, "batches"), torch.optim.Adam(theirs.parameters(), lr=LOCAL.lr, fused=True)
    whole = torch.from_numpy(rng.permutation(50))
    some = torch.from_numpy(rng.permutation(50)[:25])
    for order in (whole, some[torch.from_numpy(rng.permutation(25))]):
        for batch in order.split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(normalised(images[batch], MNIST)), labels[batch]).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
def test_every_engine_with_any_workers_has_the_same_bits(engine: Any, data: FederatedData):
    expected = run(alone(compute=Compute(engine="threads", workers=1, device="cpu")), data)
    for workers in (1, 3) if engine != "ray" else (2,):
        assert run(alone(compute=Compute(engine=engine, workers=workers, device="cpu")), data) == expected


@pytest.mark.parametrize("strategy", ["fedavg", "fedsgd"])
def test_a_federation_of_one_client_in_one_round_is_that_client_alone(
    strategy: str, sample: Dataset, test: Path, tmp_path: Path
):
    """To the bit for what the client finds; the server's model is as exact as its sum of updates."""
    images, labels = sample.train.images, sample.train.labels
    store.write(tmp_path / "shards", images, labels, [np.arange(70)], 10, held_out=[np.arange(70, 100)])
    data = FederatedData(dataset=test.parent, clients=tmp_path / "shards")
    both: dict[str, Any] = {"strategy": strategy, "rounds": 1, "clients_per_round": 1}
    [(state, round)] = list(iterate(experiment_of(model=Logistic(), **both), data))
    [report] = run(alone(**both), data).clients
    [federated] = round.clients
    assert (report.train_loss, report.holdout_accuracy) == (federated.train_loss, federated.holdout_accuracy)
    assert (report.epochs, report.examples) == (federated.epochs, federated.examples)
    assert round.test
    assert report.test_loss == pytest.approx(round.test.loss, rel=1e-6)
    assert state.round == 1


# How much


@given(
    passes=st.fractions(min_value=0, max_value=50, max_denominator=1000), examples=st.integers(1, 10**6)
)  # fmt: skip
def test_the_budget_is_kept_to_within_half_an_example(passes: Fraction, examples: int):
    budget = examples_to_process(passes, examples)
    assert budget >= 1
    assert budget == 1 or abs(budget - passes * examples) <= Fraction(1, 2)


@given(
    clients=st.integers(1, 10_000), share=st.floats(0, 1), rounds=st.integers(1, 1000), epochs=st.integers(1, 20),
    examples=st.integers(1, 5000),
)  # fmt: skip
def test_all_clients_alone_process_what_federation_does(
    clients: int, share: float, rounds: int, epochs: int, examples: int
):
    """Of clients of one size, but for an example each that may be rounded."""
    cohort = max(1, round(share * clients))
    training = LOCAL.model_copy(update={"epochs": epochs})
    experiment = alone(rounds=rounds, clients_per_round=cohort, local=training)
    alone_processed = clients * examples_to_process(experiment.passes(clients), examples)
    federated_processed = rounds * cohort * epochs * examples
    assert abs(alone_processed - federated_processed) <= max(clients / 2, clients * (alone_processed == clients))


def test_by_default_it_is_the_750_000_examples_of_the_default_federation():
    experiment = LocalExperiment()
    assert experiment.passes(8) == Fraction("12.5")
    assert 8 * examples_to_process(experiment.passes(8), 7500) == 5 * 4 * 5 * 7500 == 750_000


class Counting(nn.Module):
    """Counts how often it is trained on each image, which has its number as the brightness of all its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 10)
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images[:, 0, 0, :1]
        self.seen += torch.round((brightness * MNIST.std[0] + MNIST.mean[0]) * 255).int().flatten().tolist()
        return self.layer(brightness)


@given(examples=st.integers(1, 40), budget=st.integers(1, 150), batch=st.one_of(st.none(), st.integers(1, 50)))
@settings(max_examples=50)
def test_exactly_the_budget_is_processed_and_no_example_more_than_once_more_than_another(
    examples: int, budget: int, batch: int | None
):
    network = Counting()
    images = torch.arange(examples, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 28, 28, 1).contiguous()
    labels, training = torch.zeros(examples, dtype=torch.int64), Training(batch_size=batch, lr=1e-3)
    train_on(network, images, labels, MNIST, training, budget, generator(0, "batches"), PLAIN)
    counts = np.bincount(network.seen, minlength=examples)
    assert counts.sum() == budget
    assert set(counts) <= {budget // examples, -(-budget // examples)}


def test_the_learning_rate_does_not_decay_for_there_are_no_rounds(data: FederatedData):
    decaying = LOCAL.model_copy(update={"lr_decay": 0.5})
    assert run(alone(local=decaying), data) == run(alone(), data)


# Who


@given(clients=st.integers(1, 300), bound=st.one_of(st.none(), st.integers(1, 300)), seed=st.integers(0, 9))
def test_no_more_clients_than_the_bound_train_and_all_where_there_are_no_more(
    clients: int, bound: int | None, seed: int
):
    drawn = Local(clients=bound).draw(clients, seed)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(clients))
    assert len(drawn) == min(clients, bound or clients)
    assert drawn == Local(clients=bound).draw(clients, seed)


def test_who_is_drawn_changes_nothing_of_how_a_client_trains(data: FederatedData):
    everyone, some = run(alone(), data), run(alone(settings=Local(clients=2)), data)
    assert (len(some.clients), some.drawn, some.population) == (2, 2, 5)
    assert set(some.clients) < set(everyone.clients)


def test_every_client_is_reported_once_with_its_examples(data: FederatedData):
    told: list[int] = []
    result = run(alone(), data, on_clients=lambda result: told.append(len(result.clients)))
    assert [client.client for client in result.clients] == [0, 1, 2, 3, 4]
    assert [client.examples for client in result.clients] == [*SIZES]
    assert [client.held_out for client in result.clients] == [0, 10, 20, 30, 40]
    assert [client.holdout_accuracy is None for client in result.clients] == [True, False, False, False, False]
    assert told == sorted(told)
    assert told[-1] == 5


# What counts


def test_only_what_a_client_alone_does_is_a_parameter_of_it():
    def parameters(**changes: Any) -> Any:
        return LocalExperiment.model_validate(changes).in_use()

    before = parameters()
    counted = inputs(Pipeline.model_validate({"baseline": {"lr": 0.1}, "compute": {"workers": 1}}))["local"]
    assert counted["parameters"] == before | {"compute": {"device": "auto", "precision": "float32"}}
    for same in (
        {"federated": {"strategy": "scaffold"}},
        {"federated": {"strategy": "fedadam", "transforms": "clip", "sampling": "size", "dropout": 0.1}},
        {"federated": {"local": {"lr_decay": 0.9}}},
        {"federated": {"evaluate_every": 2, "patience": 3, "target_accuracy": 0.9}},
        {"federated": {"rounds": 10, "clients_per_round": 2}},  # the same number of local epochs in all
    ):
        assert parameters(**same) == before, same
    for other in (
        {"federated": {"strategy": "fedsgd"}},  # one step with all examples in each round
        {"federated": {"rounds": 6}},
        {"federated": {"local": {"lr": 0.01}}},
        {"federated": {"local": {"epochs": 4}}},
        {"local": {"epochs": 3}},
        {"local": {"clients": 3}},
        {"seed": 1},
        {"model": {"name": "2nn"}},
    ):
        assert parameters(**other) != before, other
    rounds = {"federated": {"rounds": 6}}
    assert parameters(local={"epochs": 3}) == parameters(local={"epochs": 3}, **rounds)


# The federated model on every hold-out


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
def test_the_federated_model_is_evaluated_on_what_each_client_holds_out(engine: Any, data: FederatedData):
    model, clients = Logistic().on(MNIST), store.open_store(data.clients)
    parameters = initial_parameters(model, 5)
    compute = Compute(engine=engine, workers=2, device="cpu")
    reports = evaluate_holdouts(experiment_of(model=Logistic(), compute=compute), data, parameters)
    assert [report.client for report in reports] == [0, 1, 2, 3, 4]
    assert vars(reports[0]) == {"client": 0, "held_out": 0, "loss": None, "accuracy": None}
    for report in reports[1:]:
        images, labels = clients.held_out(report.client)
        with torch.no_grad():
            logits = network_with(model, parameters).eval()(normalised(images, MNIST))
        assert report.held_out == len(labels)
        assert report.accuracy == accuracy_score(labels, logits.argmax(1))
        assert report.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_where_clients_do_not_evaluate_none_opens_its_hold_out(data: FederatedData, tmp_path: Path):
    (tmp_path / "shards").mkdir()
    for name in ("manifest.csv", "SHA256SUMS"):  # and no examples
        (tmp_path / "shards" / name).write_bytes((data.clients / name).read_bytes())
    quiet = experiment_of(model=Logistic(), evaluate_clients=False)
    without = FederatedData(dataset=data.dataset, clients=tmp_path / "shards")
    reports = evaluate_holdouts(quiet, without, start_of(Logistic()))
    assert [(report.held_out, report.accuracy) for report in reports] == [(10 * k, None) for k in range(5)]


# Figures

accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(np.array)


@given(values=accuracies)
def test_the_spread_is_that_of_pandas_and_of_the_definitions(values: np.ndarray):
    series, found = pd.Series(values), spread(values)
    assert found["mean"] == pytest.approx(series.mean())
    assert found["median"] == pytest.approx(series.median())
    assert found["std"] == pytest.approx(series.std(ddof=0), abs=1e-9)
    assert found["worst_tenth"] == pytest.approx(series.nsmallest(-(-len(series) // 10)).mean())
    differences = np.abs(values[:, None] - values[None, :]).sum()
    gini = differences / (2 * len(values) * values.sum()) if values.sum() else 0.0
    assert found["gini"] == pytest.approx(gini, abs=1e-9)
    assert found["gini"] >= 0


@given(data=st.data(), classes=st.integers(2, 6), examples=st.integers(1, 80))
def test_accuracy_on_ones_own_labels_is_that_on_test_images_weighted_to_ones_label_mix(
    data: st.DataObject, classes: int, examples: int
):
    """Against scikit-learn, where each test image of class c weighs p_k(c) / n_c."""
    label = st.integers(0, classes - 1)
    labels = np.array(data.draw(st.lists(label, min_size=examples, max_size=examples)))
    predictions = np.array(data.draw(st.lists(label, min_size=examples, max_size=examples)))
    counts = np.array(data.draw(st.lists(st.integers(0, 50), min_size=classes, max_size=classes)))
    tested = np.bincount(labels, minlength=classes)
    found = own_labels_accuracy(class_accuracies(confusion_matrix(labels, predictions, labels=range(classes))), counts)
    if not counts[tested > 0].sum():
        assert np.isnan(found)
        return
    weights = counts[labels] / tested[labels]
    assert found == pytest.approx(accuracy_score(labels, predictions, sample_weight=weights))


def test_own_labels_of_an_iid_client_give_the_test_accuracy_and_one_label_gives_its_class():
    labels, predictions = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
    by_class = class_accuracies(confusion_matrix(labels, predictions, labels=range(4)))
    np.testing.assert_array_equal(by_class, [0.5, 2 / 3, 1.0, np.nan])
    assert own_labels_accuracy(by_class, np.array([20, 30, 10, 0])) == pytest.approx(4 / 6)
    assert own_labels_accuracy(by_class, np.array([0, 7, 0, 3])) == pytest.approx(2 / 3)
    assert np.isnan(own_labels_accuracy(by_class, np.array([0, 0, 0, 3])))


def test_the_metrics_are_those_of_the_table(data: FederatedData):
    result = run(alone(rounds=1), data)
    table, metrics = pd.DataFrame(result.client_rows()), result.figures()
    assert metrics["accuracy"] == pytest.approx(table["test_accuracy"].mean())
    assert metrics["median_accuracy"] == pytest.approx(table["test_accuracy"].median())
    assert metrics["worst_tenth_accuracy"] == table["test_accuracy"].min()  # of five clients
    assert metrics["loss"] == pytest.approx(table["test_loss"].mean())
    assert metrics["examples_processed"] == table["examples_processed"].sum()
    assert (metrics["clients"], metrics["population"]) == (5, 5)
    assert metrics["epochs"] == 1.2  # 1 round of 3 of 5 clients, 2 local epochs
    assert not metrics["diverged"]


def test_clients_that_diverge_alone_are_said_to(data: FederatedData):
    result = run(alone(local=SGD.model_copy(update={"lr": 1e6}), rounds=1), data)
    assert result.figures()["diverged"]
    assert result.figures()["clients_diverged"] == sum(row["diverged"] for row in result.client_rows()) > 0


# Who gains

MANIFEST = pd.DataFrame(
    {"client": [0, 1, 2], "examples": [4, 4, 2], "held_out": [2, 2, 0], "label_0": [4, 2, 0], "label_1": [0, 2, 2]}
)
CLASSES = pd.DataFrame({"method": "federated", "label": [0, 1], "accuracy": [0.75, 0.5], "examples": [4, 4]})
HOLDOUT = pd.DataFrame({"client": [0, 1, 2], "accuracy": [0.5, 1.0, None]})
ALONE = pd.DataFrame(
    {
        "dataset": "MNIST", "client": [0, 2], "test_accuracy": [0.5, 0.25], "own_labels_accuracy": [1.0, 0.25],
        "holdout_accuracy": [1.0, None],
    }
)  # fmt: skip


def test_a_client_gains_what_the_federated_model_is_better_at_than_its_own():
    table = gains.clients(MANIFEST, CLASSES, 0.625, HOLDOUT.fillna(0.75), ALONE.fillna(0.25))
    assert table["federated_test_accuracy"].tolist() == [0.625] * 3
    assert table["federated_own_labels_accuracy"].tolist() == [0.75, 0.625, 0.5]
    assert table["measure"].unique().tolist() == ["holdout"]
    assert table["gain"].fillna(9).tolist() == [-0.5, 9, 0.5]
    assert gains.figures(table) == {"clients_gaining": 0.5, "mean_gain_points": 0.0}


@pytest.mark.parametrize("holdout", [HOLDOUT, HOLDOUT.assign(accuracy=None)])
def test_where_one_that_trained_alone_has_no_hold_out_all_gain_by_their_own_labels(holdout: pd.DataFrame):
    nobody = gains.clients(MANIFEST, CLASSES, 0.625, holdout, ALONE)
    assert nobody["measure"].unique().tolist() == ["own_labels"]
    assert nobody["gain"].fillna(9).tolist() == [-0.25, 9, 0.25]
    assert gains.figures(nobody) == {"clients_gaining": 0.5, "mean_gain_points": 0.0}


def test_both_trainings_are_summed_up_over_the_clients_that_trained_alone_and_federation_over_all_besides():
    summary = gains.gains(gains.clients(MANIFEST, CLASSES, 0.625, HOLDOUT, ALONE)).set_index(["measure", "method"])
    assert summary.loc["own_labels", "clients"].tolist() == [2, 2, 3]
    own = summary.loc["own_labels"]
    assert own["mean"].tolist() == [0.625, 0.625, 0.625]
    assert own["worst_tenth"].tolist() == [0.5, 0.25, 0.5]
    assert own["clients_gaining"].fillna(9).tolist() == [0.5, 9, 9]
    assert summary.loc["test", "mean_gain"].fillna(9).tolist() == [0.25, 9, 9]
    text = gains.as_markdown(summary.reset_index(), 3)
    assert "- On the test set, 2 of 2 clients drawn at random from 3 gain; the mean gain is +25.00 points." in text
    assert "| their own labels | local | 2 | 62.50% | 25.00% | 37.50% | 0.300 |" in text
    assert max(map(len, text.splitlines())) <= 100


# Interruptions and damage


class Interruption(BaseException):
    """Whatever may end a program."""


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_what_was_interrupted_goes_on_with_the_clients_that_were_not_done(
    engine: Any, data: FederatedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forked, "SECONDS", -1.0)  # a result for each client
    compute = Compute(engine=engine, workers=1, device="cpu", checkpoint_every=0.0)

    def end(result: Result) -> None:
        if len(result.clients) == 3:
            raise Interruption

    experiment = alone(compute=compute)
    whole = run(experiment, data)
    with pytest.raises(Interruption):
        run(experiment, data, checkpoint=tmp_path, on_clients=end)
    resumed: list[Result] = []
    result = run(experiment, data, checkpoint=tmp_path, on_resume=resumed.append)
    assert [len(each.clients) for each in resumed] == [3]
    assert result == whole
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []  # recorded: nothing stays


def test_a_result_that_is_not_recorded_yet_is_there_without_training(data: FederatedData, tmp_path: Path):
    """As when DVC is killed between the end of the stage and dvc.lock."""
    experiment = alone(compute=THREADS.model_copy(update={"checkpoint_every": 0.0}))
    record = tmp_path / "dvc.lock"
    whole = run(experiment, data, checkpoint=tmp_path / "checkpoints", recorded_in=record)
    trained: list[Result] = []
    again = run(
        experiment, data, checkpoint=tmp_path / "checkpoints", recorded_in=record, on_clients=trained.append
    )  # fmt: skip
    assert (again, trained) == (whole, [])


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_client_that_finds_its_examples_damaged_ends_the_run_in_a_line(
    engine: Any, data: FederatedData, tmp_path: Path
):
    folder = tmp_path / "shards"
    folder.mkdir()
    for file in data.clients.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    flipped_late(folder / "client-00003.safetensors")
    broken = FederatedData(dataset=data.dataset, clients=folder)
    compute = Compute(engine=engine, workers=2, device="cpu")
    with pytest.raises(UserError, match=r"client 3's examples are not what was written") as error:
        run(alone(compute=compute), broken)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"client 3's examples are not what was written"):
        evaluate_holdouts(experiment_of(model=Logistic(), compute=compute), broken, start_of(Logistic()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_table_of_clients_that_compare_reads_is_that_which_was_written(damage: Damage, tmp_path: Path):
    from fedpipe.results.comparison import read_table

    files.write_table(tmp_path / "clients.csv", [{"client": client, "test_accuracy": 0.5} for client in range(50)])
    files.write_sums(tmp_path, "clients.csv")
    damage(tmp_path / "clients.csv")
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "clients.csv", "local", "client")
    said_of(tmp_path / "clients.csv", error)


@pytest.mark.slow
def test_the_stage_says_how_far_it_is_and_goes_on_after_it_is_killed(data: FederatedData, tmp_path: Path):
    """SIGKILL, in the middle, in a project's folder without DVC."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset").symlink_to(data.dataset)
    (tmp_path / "data/shards").symlink_to(data.clients)
    (tmp_path / "params.yaml").write_text(
        "local: {epochs: 60.0}\ncompute: {workers: 1, checkpoint_every: 0.0, device: cpu}\nmodel: {name: logistic}\n"
        "federated: {local: {batch_size: 1, optimizer: sgd}}\n"
    )
    command = [sys.executable, "-m", "stages.local"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    killed = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=-1, stderr=-1, env=environment)
    assert killed.stdout
    assert " of 5 clients alone: test accuracy " in killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "reports/local/metrics.json").exists()
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("interrupted before: going on after ")
    assert last.startswith("5 of 5 clients alone: test accuracy ")
    table = pd.read_csv(tmp_path / "reports/local/clients.csv")
    assert table["examples_processed"].tolist() == [60 * size for size in SIZES]
