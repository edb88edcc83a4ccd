"""The benchmarks compare equal work, and count it right."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import data, engines, fedpipe_runner, measure, strategies
from benchmarks.works import WORKS, Work
from fedpipe import shards
from fedpipe.strategies import STRATEGIES


def test_a_work_fits_mnist_and_divides_it_evenly():
    for work in WORKS.values():
        assert work.clients * work.per_client == 60_000
        assert work.cohort <= work.clients


def test_the_operations_of_the_reference_cnn_are_counted_as_by_hand():
    """Forward, gradients of weights, and gradients of inputs but the images'."""
    conv1, conv2, linear = (2 * size for size in (28 * 28 * 16 * 25, 14 * 14 * 32 * 25 * 16, 1568 * 10))
    expected = 2 * conv1 + 3 * conv2 + 3 * linear
    assert measure.flop_per_example("reference-cnn", 10) == pytest.approx(expected)


def test_unequal_work_is_refused():
    result = {"examples": 6000, "steps": 600, "rounds_s": [0.1], "first_round_s": 1.0, "peak_mb": 1, "accuracy": 0.9}
    assert engines._row(WORKS["mlp"], "an engine", [result])["examples_per_s"] == 60_000
    with pytest.raises(RuntimeError, match=r"an engine, mlp: 6000 examples, 60 steps a round"):
        engines._row(WORKS["mlp"], "an engine", [result | {"steps": 60}])


def test_both_forms_of_a_works_data_hold_the_same_examples(test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The peers' .npz and fedpipe's shards: every client has as many, in the same order."""
    monkeypatch.setattr(data, "MNIST", test.parent)
    work = Work("small", "2nn", clients=5, per_client=120, cohort=5, batch_size=10)
    npz, folder = data.prepare(work, tmp_path)
    peers = np.load(npz)
    population = shards.locate(folder / "shards")
    assert len(population) == 5
    for shard, indices in zip(population, peers["assignment"], strict=True):
        images, labels = shards.read(shard)
        assert len(shard) == 120
        np.testing.assert_array_equal(images, peers["images"][indices])
        np.testing.assert_array_equal(labels, peers["labels"][indices])


def test_fedpipe_runs_its_part_of_a_work(folder: Path, test: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "shards").symlink_to(folder)
    (tmp_path / "test.safetensors").symlink_to(test)
    work = Work("mlp", "2nn", clients=5, per_client=120, cohort=5, batch_size=10)
    fedpipe_runner.federate(work, tmp_path, rounds=2, engine="threads", workers=1, precision="float32")
    assert '"examples": 600' in capsys.readouterr().out


def test_the_table_of_strategies_has_a_cell_for_each_strategy_and_partition(
    folder: Path, test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "shards").symlink_to(folder)
    (tmp_path / "test.safetensors").symlink_to(test)
    for name, value in {"COHORT": 3, "ROUNDS": 3, "EVALUATE_EVERY": 1}.items():
        monkeypatch.setattr(strategies, name, value)
    row = strategies._accuracy(strategies.Run("shards 2", "fedprox", 1, 0.1, tmp_path))
    assert 0.1 < row["accuracy"] <= row["best"] < 1
    table = pd.DataFrame(
        row | {"phase": "final", "strategy": strategy, "partition": partition, "seed": seed}
        for strategy in strategies.STRATEGIES
        for partition in strategies.PARTITIONS
        for seed in strategies.SEEDS
    )
    text = strategies.as_markdown(table)
    mean = f"{100 * row['accuracy']:.2f} ± 0.00"
    cells = len(strategies.STRATEGIES) * len(strategies.PARTITIONS)
    assert text.count(mean) == text.count("| 0.1 ") == cells
    assert set(strategies.STRATEGIES) <= set(STRATEGIES)
