"""Validation data: held back from everybody who trains, and in the test set's place until the end."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedpipe
from fedpipe import baseline
from fedpipe.data.datasets import Dataset, Split, describe, load, measured, save
from fedpipe.data.partition.settings import Partition
from fedpipe.data.shards import write_shards
from fedpipe.data.sources import Download, offline_sample, without_validation
from fedpipe.data.store import ClientStore
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, Result, run
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.testing import EvaluateParts
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import network_with
from fedpipe.pipeline import Pipeline, inputs
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.training.evaluation import Evaluation, evaluate
from tests.federations import MNIST, THREADS, experiment_of, same

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)
WORSENING = LocalTraining(epochs=1, batch_size=32, optimizer="adam", lr=0.1)  # the loss soon gets worse
FIGURES = "loss", "accuracy", "macro_f1"
CENTRALISED = {"seed": 3, "model": {"name": "logistic"}, "compute": {"device": "cpu", "checkpoint_every": 0.0}}


def pixels(images: Iterable[torch.Tensor]) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def numbered(labels: list[int], owners: list[int] | None = None) -> Split:
    """Examples whose images say which they are."""
    images = torch.arange(len(labels)).to(torch.int32).view(torch.uint8).view(-1, 1, 4, 1)
    return Split(images, torch.tensor(labels), None if owners is None else torch.tensor(owners))


def numbers(split: Split) -> list[int]:
    return split.images.contiguous().view(-1, 4).view(torch.int32).flatten().tolist()


# What is held back


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=300),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
def test_of_each_class_the_fraction_is_held_back_to_within_one_example(labels: list[int], fraction: float, seed: int):
    settings = Download(validation=fraction, split_seed=seed)
    try:
        train, validation = without_validation(numbered(labels), settings)
    except ParameterError:
        assert round(fraction * len(labels)) in (0, len(labels))
        return
    assert validation
    assert numbers(train) == sorted(numbers(train))
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    assert len(validation) == int(fraction * len(labels) + 0.5)
    assert [labels[number] for number in numbers(validation)] == validation.labels.tolist()
    held_back, all_of = Counter(validation.labels.tolist()), Counter(labels)
    assert all(abs(held_back[label] - fraction * count) < 1 for label, count in all_of.items())


@given(
    examples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=5, max_size=200),
    fraction=st.floats(0.05, 0.95),
)
def test_of_each_client_and_each_of_its_classes_too_and_no_client_loses_all(
    examples: list[tuple[int, int]], fraction: float
):
    labels, owners = map(list, zip(*examples, strict=True))
    try:
        train, validation = without_validation(numbered(labels, owners), Download(validation=fraction))
    except ParameterError:
        return
    assert validation
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    assert validation.owners is None
    assert set(train.owners.tolist()) == set(owners)  # pyright: ignore[reportOptionalMemberAccess]
    held_back = [examples[number] for number in numbers(validation)]
    for count_of in (lambda pair: pair, lambda pair: pair[1]):
        found, all_of = Counter(map(count_of, held_back)), Counter(map(count_of, examples))
        for group, count in all_of.items():
            assert abs(found[group] - fraction * count) < 1


def test_clients_with_few_examples_of_every_class_do_not_all_lose_those_of_the_same():
    """1,000 clients with one example of each of ten classes: each class is drawn about as often."""
    labels, owners = np.tile(np.arange(10), 1000), np.repeat(np.arange(1000), 10)
    _, validation = without_validation(numbered(labels.tolist(), owners.tolist()), Download(validation=0.1))
    assert validation
    counts = torch.bincount(validation.labels)
    assert counts.sum() == 1000
    assert (counts - 100).abs().max() < 45  # of a binomial of standard deviation 9.5


def test_the_sample_keeps_its_bits_but_for_what_is_held_back(sample: Dataset):
    held_back = offline_sample(Download(validation=0.1))
    assert held_back.validation
    assert torch.bincount(held_back.validation.labels).tolist() == [40] * 10
    assert torch.equal(held_back.test.images, sample.test.images)
    assert pixels(held_back.train.images) | pixels(held_back.validation.images) == pixels(sample.train.images)
    assert not pixels(held_back.train.images) & pixels(held_back.validation.images)
    assert sample.validation is None
    again, other = (offline_sample(Download(validation=0.1, split_seed=seed)).validation for seed in (0, 1))
    assert again
    assert other
    assert torch.equal(held_back.validation.images, again.images)
    assert pixels(other.images) != pixels(again.images)


def test_what_is_held_back_does_not_depend_on_the_experiments_seed():
    one, other = (inputs(Pipeline.model_validate({"seed": seed, "download": {"validation": 0.1}})) for seed in (1, 2))
    assert one["download"] == other["download"]
    assert one["partition"] != other["partition"]


def test_mean_and_standard_deviation_are_of_what_is_trained_on(tmp_path: Path):
    images = np.random.default_rng(0).integers(256, size=(60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(60) % 2)
    from fedpipe.data.sources import fetch

    found = fetch(Download(dataset="own", path=str(tmp_path / "own.npz"), validation=0.2), None, tmp_path)
    assert found.validation
    assert [len(split) for split in (found.train, found.validation, found.test)] == [43, 11, 6]
    assert found.spec.mean == pytest.approx([found.train.images.double().mean().item() / 255], rel=1e-12)
    assert len(pixels(torch.cat([found.train.images, found.validation.images, found.test.images]))) == 60


# Nobody trains on it


@pytest.fixture(scope="module")
def held_back(no_network: None) -> Dataset:
    """The sample with validation data."""
    return offline_sample(Download(validation=0.1))


@pytest.fixture(scope="module")
def validated(held_back: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FederatedData:
    """It and its shards on disk."""
    root = tmp_path_factory.mktemp("validated")
    save(held_back, root / "dataset")
    write_shards(root / "shards", load(root / "dataset/train.safetensors"), 10, Partition(clients=5), seed=1)
    return FederatedData(root / "dataset", root / "shards")


def with_splits(data: FederatedData, folder: Path, dataset: Dataset, **splits: Split | None) -> FederatedData:
    """The same clients, with other validation or test data."""
    save(replace(dataset, **splits), folder)
    return FederatedData(folder, data.clients)


def test_the_clients_hold_all_other_training_examples_and_none_of_these(validated: FederatedData, held_back: Dataset):
    assert held_back.validation
    store = ClientStore(validated.clients)
    held = [pixels(store.examples(client)[0]) for client in range(len(store))]
    assert set.union(*held) == pixels(held_back.train.images)
    assert not set.union(*held) & pixels(held_back.validation.images)
    assert sum(map(len, held)) == 3600


def test_what_is_validated_on_changes_no_model(validated: FederatedData, held_back: Dataset, tmp_path: Path):
    other = with_splits(validated, tmp_path / "other", held_back, validation=held_back.test)
    none = with_splits(validated, tmp_path / "none", held_back, validation=None)
    experiment = experiment_of(rounds=2, model=Logistic(), local=SGD)
    models = [run(experiment, data).state.parameters for data in (validated, other, none)]
    assert same(models[0], models[1])
    assert same(models[0], models[2])
    centralised = baseline.CentralisedExperiment.model_validate({**CENTRALISED, "baseline": {"epochs": 2}})
    models = [baseline.run(centralised, data.dataset).parameters for data in (validated, other, none)]
    assert same(models[0], models[1])
    assert same(models[0], models[2])


# It takes the place of the test set


@pytest.mark.parametrize(
    "setting",
    [
        {"rounds": 30, "local": WORSENING, "patience": 2},
        {"rounds": 30, "local": WORSENING, "patience": 1, "evaluate_every": 2},
        {"rounds": 10, "local": SGD, "target_accuracy": 0.7},
        {"rounds": 3, "local": SGD},
        {"rounds": 5, "local": LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=1e4)},
    ],
    ids=["patience", "every second round", "target", "all rounds", "divergence"],
)
def test_training_goes_as_if_validation_data_were_the_test_set_until_the_last_model_is_tested(
    setting: dict[str, Any], validated: FederatedData, held_back: Dataset, tmp_path: Path
):
    assert held_back.validation
    in_place = with_splits(validated, tmp_path, held_back, validation=None, test=held_back.validation)
    experiment = experiment_of(model=Logistic(), **setting)
    result, expected = run(experiment, validated), run(experiment, in_place)
    assert same(result.state.parameters, expected.state.parameters)
    assert result.state.encode() == expected.state.encode()
    assert result.evaluated_on == "validation"
    assert expected.evaluated_on == "test"
    for number, (row, other) in enumerate(zip(result.round_rows(), expected.round_rows(), strict=True), start=1):
        for figure in FIGURES:
            assert repr(row[f"validation_{figure}"]) == repr(other[f"test_{figure}"])
            assert other[f"validation_{figure}"] is None
            assert (row[f"test_{figure}"] is None) == (number < len(result.history))
    network = network_with(Logistic().on(MNIST), result.state.parameters)
    tested = evaluate(network, held_back.test.images, held_back.test.labels, MNIST)
    assert torch.equal(result.test.confusion, tested.confusion)
    metrics = result.figures()
    assert (metrics["accuracy"], metrics["validation_accuracy"]) == (tested.accuracy, expected.test.accuracy)
    assert "validation_accuracy" not in expected.figures()


@pytest.mark.parametrize(("lr", "epochs"), [(0.1, 3), (1e5, 1)], ids=["to the end", "diverging"])
def test_so_does_centralised_training(
    lr: float, epochs: int, validated: FederatedData, held_back: Dataset, tmp_path: Path
):
    assert held_back.validation
    in_place = with_splits(validated, tmp_path, held_back, validation=None, test=held_back.validation)
    experiment = baseline.CentralisedExperiment.model_validate(
        {**CENTRALISED, "baseline": {"epochs": 3, "optimizer": "sgd", "lr": lr}}
    )
    result, expected = (baseline.run(experiment, data.dataset) for data in (validated, in_place))
    assert len(result.epochs) == len(expected.epochs) == epochs
    assert same(result.parameters, expected.parameters)
    for number, (row, other) in enumerate(zip(result.epoch_rows(), expected.epoch_rows(), strict=True), start=1):
        for figure in FIGURES:
            assert row[f"validation_{figure}"] == other[f"test_{figure}"]
            assert (row[f"test_{figure}"] is None) == (number < epochs)
    assert result.diverged == expected.diverged == (lr > 1)
    assert int(result.test.confusion.sum()) == 1000


def test_the_test_set_is_used_once(validated: FederatedData, monkeypatch: pytest.MonkeyPatch):
    """Every use counts, of either training: so many examples of each file."""
    used: Counter[str] = Counter()
    on_parts, on_all = EvaluateParts.__call__, baseline.evaluate

    def counted_parts(self: EvaluateParts, parameters: Any, tasks: Iterable[range]) -> Any:
        tasks = list(tasks)
        used[self.examples.stem] += sum(map(len, tasks))
        return on_parts(self, parameters, tasks)

    def counted(network: Any, images: torch.Tensor, labels: torch.Tensor, spec: Any) -> Evaluation:
        used[{400: "validation", 1000: "test"}[len(labels)]] += len(labels)
        return on_all(network, images, labels, spec)

    monkeypatch.setattr(EvaluateParts, "__call__", counted_parts)
    monkeypatch.setattr(baseline, "evaluate", counted)
    run(experiment_of(rounds=5, evaluate_every=2, model=Logistic(), local=SGD), validated)
    assert used == {"validation": 3 * 400, "test": 1000}
    used.clear()
    baseline.run(
        baseline.CentralisedExperiment.model_validate({**CENTRALISED, "baseline": {"epochs": 4}}), validated.dataset
    )
    assert used == {"validation": 4 * 400, "test": 1000}


# Interrupted


class Interruption(Exception):
    """What ends a run in a test."""


def at(step: int, steps: Callable[[Any], Any]) -> Callable[[Any], None]:
    def interrupt(result: Any) -> None:
        if len(steps(result)) == step:
            raise Interruption

    return interrupt


def everything(result: Result) -> Any:
    return result.state.encode(), result.round_rows(), result.figures(), result.test.confusion.tolist()


@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_run_goes_on_exactly_wherever_it_ended(
    data: st.DataObject, validated: FederatedData, tmp_path_factory: pytest.TempPathFactory
):
    """After the last round too, of which the test set is a part."""
    experiment = experiment_of(
        rounds=8, local=WORSENING, patience=data.draw(st.sampled_from([1, 2])), model=Logistic(),
        evaluate_every=data.draw(st.sampled_from([1, 2])), strategy=data.draw(st.sampled_from(["fedavgm", "scaffold"])),
        compute=Compute.model_validate({**THREADS.model_dump(), "checkpoint_every": 0.0}),
    )  # fmt: skip
    whole, checkpoint = run(experiment, validated), tmp_path_factory.mktemp("checkpoints")
    for step in sorted(data.draw(st.sets(st.integers(2, len(whole.history)), min_size=1, max_size=2))):
        with pytest.raises(Interruption):
            run(experiment, validated, checkpoint=checkpoint, on_round=at(step, lambda result: result.history))
    with pytest.raises(Interruption):
        run(experiment, validated, checkpoint=checkpoint, on_end=at(len(whole.history), lambda result: result.history))
    assert everything(run(experiment, validated, checkpoint=checkpoint)) == everything(whole)


def test_so_does_centralised_training_with_validation_data(validated: FederatedData, tmp_path: Path):
    experiment = baseline.CentralisedExperiment.model_validate({**CENTRALISED, "baseline": {"epochs": 3}})

    def all_of(result: baseline.Result) -> Any:
        return result.epoch_rows(), result.figures(), result.test.confusion.tolist()

    whole = baseline.run(experiment, validated.dataset)
    endings: list[dict[str, Any]] = [
        {"on_epoch": at(2, lambda result: result.epochs)},
        {"on_end": at(3, lambda result: result.epochs)},
    ]
    for ends in endings:
        with pytest.raises(Interruption):
            baseline.run(experiment, validated.dataset, checkpoint=tmp_path, **ends)
    assert all_of(baseline.run(experiment, validated.dataset, checkpoint=tmp_path)) == all_of(whole)


# From Python

SMALL: dict[str, Any] = {
    "model": "logistic",
    "rounds": 2,
    "local": {"epochs": 1, "optimizer": "sgd", "lr": 0.05},
    "compute": {"engine": "threads", "workers": 1, "device": "cpu"},
}


def test_a_run_from_python_holds_data_back_and_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    result = fedpipe.run(validation=0.1, **SMALL)
    assert (result.data.train_examples, result.data.validation_examples) == (3600, 400)
    assert result.rounds["validation_accuracy"].notna().tolist() == [True, True]
    assert result.rounds["test_accuracy"].notna().tolist() == [False, True]
    drawn = result.plot().to_dict()
    [rows] = drawn["datasets"].values()
    assert [row["validation_accuracy"] for row in rows] == result.rounds["validation_accuracy"].tolist()
    assert drawn["encoding"]["y"]["title"] == "validation accuracy"
    assert "validation_loss" in result._repr_html_()
    assert f"test accuracy {result.accuracy:.2%}" in repr(result)
    first, last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert first.startswith("round 1: validation accuracy ")
    assert "test accuracy" not in first
    assert "; test accuracy " in last


def test_own_data_is_held_back_of_each_client(sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    images, labels = sample.train.images.numpy(), sample.train.labels.numpy()
    clients: list[Any] = [(images[start::40], labels[start::40]) for start in range(4)]
    test = (sample.test.images.numpy(), sample.test.labels.numpy())
    settings = {**SMALL, "clients_per_round": 4, "quiet": True}
    one, other = (fedpipe.run(data=clients, test=test, validation=0.2, seed=seed, **settings) for seed in (1, 2))
    assert one.clients["examples"].tolist() == [80] * 8
    assert one.data.sha256["validation_images"] == other.data.sha256["validation_images"]  # whatever the seed
    assert one.data.validation_examples == 80


@pytest.mark.parametrize("customary", [True, False])
def test_of_a_data_set_in_a_folder_the_same_is_held_back_as_by_the_pipeline(
    customary: bool, sample: Dataset, held_back: Dataset, tmp_path: Path
):
    """And mean and standard deviation are measured again, on what is left, if they were measured."""

    def normalised_as_asked(dataset: Dataset) -> Dataset:
        mean, std = measured(dataset.train.images)
        return dataset if customary else replace(dataset, spec=replace(dataset.spec, mean=mean, std=std))

    save(normalised_as_asked(sample), tmp_path / "whole")
    save(normalised_as_asked(held_back), tmp_path / "held back")
    result = fedpipe.run(data=tmp_path / "whole", validation=0.1, quiet=True, **SMALL)
    assert result.data == describe(tmp_path / "held back/dataset.json")


def test_a_data_set_with_validation_data_is_not_divided_again(validated: FederatedData):
    with pytest.raises(UserError, match=r"^validation: the data set has validation data already; leave it out$"):
        fedpipe.run(data=validated.dataset, validation=0.1, **SMALL)
    assert fedpipe.run(data=validated.dataset, quiet=True, **SMALL).evaluated_on == "validation"
