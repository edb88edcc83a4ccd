"""Robust rules of aggregation give the numbers that Flower's functions give, if it is installed (`make bench`)."""

from typing import Any

import numpy as np
import pytest
import torch

from fedpipe.federated.aggregation.rules import bulyan, coordinate_median, krum_order, trimmed_mean

aggregate = pytest.importorskip("flwr.server.strategy.aggregate", reason="flwr belongs to the extra `bench`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # flwr's are not this project's
COHORTS = [(seed, n, f) for seed in range(20) for n, f in ((3, 0), (7, 1), (8, 1), (11, 2), (20, 4), (21, 3))]

cohorts = pytest.mark.parametrize(("seed", "n", "f"), COHORTS)


def rows_of(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 12))


def theirs(rows: np.ndarray) -> list[tuple[list[Any], int]]:
    """Return the rows as Flower has updates: arrays of several shapes, and a number of examples, which is the same."""
    return [([row[:6].reshape(2, 3), row[6:]], 10) for row in rows]


def flat(arrays: list[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays])


@cohorts
def test_the_median(seed: int, n: int, f: int):
    rows = rows_of(seed, n)
    np.testing.assert_array_equal(
        coordinate_median(torch.from_numpy(rows)), flat(aggregate.aggregate_median(theirs(rows)))
    )


@cohorts
def test_the_trimmed_mean(seed: int, n: int, f: int):
    """Theirs cuts a proportion and rounds down."""
    rows = rows_of(seed, n)
    expected = flat(aggregate.aggregate_trimmed_avg(theirs(rows), (f + 0.25) / n))
    np.testing.assert_allclose(trimmed_mean(torch.from_numpy(rows), f), expected, rtol=1e-10, atol=1e-12)


@cohorts
def test_krum_and_multi_krum(seed: int, n: int, f: int):
    rows = rows_of(seed, n)
    order = krum_order(torch.from_numpy(rows), f)
    if n > 3:  # of three, those that are nearest to each other have the same score
        np.testing.assert_array_equal(rows[order[0]], flat(aggregate.aggregate_krum(theirs(rows), f, 0)))
        several = flat(aggregate.aggregate_krum(theirs(rows), f, n - f))
        np.testing.assert_allclose(rows[order[: n - f]].mean(axis=0), several, rtol=1e-10, atol=1e-12)


@cohorts
def test_bulyan(seed: int, n: int, f: int):
    """Theirs adds the numbers up in another order."""
    rows = rows_of(seed, n)
    expected = flat(aggregate.aggregate_bulyan(theirs(rows), f, aggregate.aggregate_krum, to_keep=0))
    np.testing.assert_allclose(bulyan(torch.from_numpy(rows), f), expected, rtol=1e-10, atol=1e-12)
