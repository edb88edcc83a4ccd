"""The benchmarks compare equal work, and count it right."""

import pytest

from benchmarks import engines, measure
from benchmarks.works import WORKS


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
