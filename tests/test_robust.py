"""Robust rules of aggregation are what their papers say, by independent oracles, and bear f hostile updates."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import byzfl
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy.optimize import minimize
from scipy.stats import trim_mean
from torch import Tensor

from fedpipe.engines import Compute
from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.clipping import CenteredClipping, NormBounding
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.aggregation.rules import (
    bounded,
    bulyan,
    bulyan_selection,
    centered_clipping,
    coordinate_median,
    geometric_median,
    hostile_among,
    krum,
    krum_order,
    mixed_with_nearest,
    multi_krum,
    trimmed_mean,
)
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext, ServerContext
from fedpipe.federated.messages import Aggregate, ClientReport, Update
from fedpipe.federated.mixing.base import Mixed
from fedpipe.federated.mixing.nearest import NearestNeighbours
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.models.logistic import Logistic
from tests.federations import federate

LARGEST = float(np.finfo(np.float32).max)
RADIUS, STEPS = 2.0, 3  # of centred clipping

Rule = Callable[[Tensor, int], Tensor]

RULES: dict[str, Rule] = {  # each from the rows and f
    "median": lambda rows, f: coordinate_median(rows),
    "trimmed mean": trimmed_mean,
    "Krum": krum,
    "multi-Krum": multi_krum,
    "Bulyan": bulyan,
    "geometric median": lambda rows, f: geometric_median(rows, nu=1e-9, iterations=2000, tolerance=1e-12),
    "centred clipping": lambda rows, f: centered_clipping(rows, coordinate_median(rows), RADIUS, STEPS),
    "mixing, then median": lambda rows, f: coordinate_median(mixed_with_nearest(rows, f)),
}
FEWEST: dict[str, Callable[[int], int]] = {  # updates, for f hostile ones; 2f + 1 for the others
    "Krum": lambda f: 2 * f + 3,
    "multi-Krum": lambda f: 2 * f + 3,
    "Bulyan": lambda f: 4 * f + 3,
}
IN_HONEST_RANGE = RULES.keys() - {"geometric median", "centred clipping"}  # in every coordinate

rules = pytest.mark.parametrize("name", RULES)
few = settings(max_examples=25)  # for each rule, or slow
single = st.floats(-1000, 1000, width=32)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 4))
tables = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=single))
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, n: int, d: int) -> Tensor:
    """Rows without ties."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def fewest(name: str, f: int) -> int:
    return FEWEST.get(name, lambda f: 2 * f + 1)(f)


# What the papers say.


@given(tables)
def test_the_median_is_numpys(rows: np.ndarray):
    np.testing.assert_array_equal(coordinate_median(torch.from_numpy(rows)), np.median(rows, axis=0))


@given(tables, st.data())
def test_the_trimmed_mean_is_scipys(rows: np.ndarray, data: st.DataObject):
    f = data.draw(st.integers(0, (len(rows) - 1) // 2))
    found = trimmed_mean(torch.from_numpy(rows), f)
    np.testing.assert_allclose(found, trim_mean(rows, (f + 0.25) / len(rows)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found, byzfl.TrMean(f)(rows), rtol=1e-12, atol=1e-12)


@given(seeds, st.integers(0, 4), st.integers(0, 5), st.integers(1, 6))
def test_krum_is_byzfls(seed: int, f: int, more: int, d: int):
    """Byzfl's scores count n - f - 1 neighbours; if it is told f + 1, n - f - 2, as those of Blanchard et al. do."""
    rows = normal(seed, 2 * f + 3 + more, d)
    order = krum_order(rows, f)
    np.testing.assert_array_equal(rows[order[0]], byzfl.Krum(f + 1)(rows.numpy()))
    chosen = rows[order[: len(rows) - f - 1]].mean(dim=0)  # it averages as many as it takes for honest
    np.testing.assert_allclose(chosen, byzfl.MultiKrum(f + 1)(rows.numpy()), rtol=1e-10, atol=1e-12)


def krum_scores(rows: np.ndarray, f: int) -> list[float]:
    """Return each row's score, by the definition."""
    scores = []
    for i, one in enumerate(rows):
        distances = sorted(float(np.sum((one - other) ** 2)) for j, other in enumerate(rows) if j != i)
        scores.append(sum(distances[: max(1, len(rows) - f - 2)]))
    return scores


@given(arrays(np.float64, (9, 2), elements=st.integers(-3, 3)), st.integers(0, 3))
def test_krum_orders_by_its_scores_and_equal_ones_by_number(rows: np.ndarray, f: int):
    scores = krum_scores(rows, f)
    assert krum_order(torch.from_numpy(rows), f) == sorted(range(9), key=lambda row: (scores[row], row))


@given(arrays(np.float64, (11, 2), elements=st.integers(-9, 9)), st.integers(0, 2))
def test_bulyan_is_the_mean_of_those_nearest_to_the_median_of_krums_selection(rows: np.ndarray, f: int):
    """By the definition: of all sets of n - 4f values of a coordinate the one with the least Σ |x - median|."""
    left, selected = list(range(11)), []
    for _ in range(11 - 2 * f):
        scores = krum_scores(rows[left], f)
        selected.append(left.pop(scores.index(min(scores))))
    assert bulyan_selection(torch.from_numpy(rows), f) == sorted(selected)

    found = bulyan(torch.from_numpy(rows), f)
    for value, column in zip(found.tolist(), rows[selected].T, strict=True):
        sets = [np.array(chosen) for chosen in combinations(column, 11 - 4 * f)]
        distances = [np.abs(chosen - np.median(column)).sum() for chosen in sets]
        best = [chosen.mean() for chosen, distance in zip(sets, distances, strict=True) if distance == min(distances)]
        assert value == pytest.approx(min(best), abs=1e-12)  # the lower values, if several are as near


@few
@given(seeds, st.integers(3, 12), st.integers(1, 5))
def test_the_geometric_median_has_the_least_sum_of_distances(seed: int, n: int, d: int):
    rows = normal(seed, n, d)

    def total(point: np.ndarray | Tensor) -> float:
        return float(np.linalg.norm(rows.numpy() - np.asarray(point), axis=1).sum())

    found = geometric_median(rows, nu=1e-9, iterations=5000, tolerance=1e-13)
    best = minimize(total, rows.mean(dim=0).numpy(), method="Nelder-Mead", options={"xatol": 1e-9, "maxiter": 4000})
    assert total(found) <= best.fun * (1 + 1e-7)


@few
@given(seeds, st.sampled_from([5, 7, 9]), st.integers(3, 6))
def test_the_geometric_median_is_byzfls(seed: int, n: int, d: int):
    """Byzfl starts at 0, and the limit is the same."""
    rows = normal(seed, n, d)
    found = geometric_median(rows, nu=0.1, iterations=500, tolerance=1e-12)
    np.testing.assert_allclose(found, byzfl.GeometricMedian(0.1, 500)(rows.numpy()), rtol=1e-3, atol=1e-3)


def test_the_geometric_median_on_a_line_is_the_median():
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0], [7.0, 7.0], [100.0, 100.0]], dtype=torch.float64)
    np.testing.assert_allclose(geometric_median(rows, 1e-6, 1000, 1e-9), [5, 5], atol=1e-5)


def test_the_geometric_median_ends_by_how_far_most_updates_are_away():
    """Neither a single one far away nor the unit of lengths matters."""
    rows = torch.cat([normal(0, 10, 3), torch.full((1, 3), 1e9, dtype=torch.float64)])
    found = geometric_median(rows, 2.0**-20, 1000, 1e-4)
    assert float((found - geometric_median(rows, 2.0**-20, 5000, 1e-13)).norm()) < 1e-2
    assert torch.equal(geometric_median(rows * 2**20, 1.0, 1000, 1e-4), found * 2**20)


def test_the_geometric_median_stops_when_its_steps_are_short():
    rows = normal(0, 10, 3)
    points = [geometric_median(rows, 1e-6, iterations, 0.01) for iterations in range(1, 40)]
    steps = [float((after - before).norm()) for before, after in pairwise(points)]
    assert steps[0] > 0
    assert steps[-1] == 0
    exact = geometric_median(rows, 1e-6, 5000, 1e-13)
    assert 1e-6 < float((points[-1] - exact).norm()) < 0.1


@given(seeds, st.integers(1, 9), st.integers(1, 5), st.floats(0.1, 10), st.integers(1, 4))
def test_centred_clipping_is_byzfls(seed: int, n: int, d: int, radius: float, iterations: int):
    rows = normal(seed, n, d) * 3
    centre = normal(seed + 1, 1, d)[0]
    found = centered_clipping(rows, centre, radius, iterations)
    with np.errstate(divide="ignore"):  # it divides by distances of 0 too
        expected = byzfl.CenteredClipping(L=iterations, tau=radius)((rows - centre).numpy())  # which starts at 0
    np.testing.assert_allclose(found - centre, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@given(seeds, st.integers(0, 4), st.integers(1, 5), st.integers(1, 600))
def test_mixing_is_byzfls(seed: int, f: int, more: int, d: int):
    rows = normal(seed, 2 * f + more, d)
    np.testing.assert_allclose(mixed_with_nearest(rows, f), byzfl.NNM(f)(rows.numpy()), rtol=1e-10, atol=1e-12)


def test_of_rows_that_are_equally_near_the_lower_ones_are_mixed():
    rows = torch.tensor([[0.0], [0.0], [2.0], [1.0], [0.0]], dtype=torch.float64)
    assert mixed_with_nearest(rows, 2)[:, 0].tolist() == [0, 0, 1, 1 / 3, 0]  # 1 with 0 and 0, and not with 2


@given(arrays(np.float32, 5, elements=st.floats(-LARGEST, LARGEST, width=32)), st.floats(1e-3, LARGEST))
def test_a_bounded_vector_has_the_direction_it_had_and_at_most_the_norm(vector: np.ndarray, norm: float):
    found = bounded(torch.from_numpy(vector), norm).numpy()
    length = np.linalg.norm(vector.astype(float))
    assert np.linalg.norm(found) <= norm * (1 + 1e-12)
    np.testing.assert_allclose(found, vector.astype(float) * min(1.0, norm / max(length, 1e-300)), rtol=1e-12)


@pytest.mark.parametrize(("n", "fraction", "f"), [(30, 0.1, 3), (31, 0.1, 4), (10, 0.3, 3), (7, 0.0, 0), (4, 0.2, 1)])
def test_a_fraction_of_hostile_updates_is_rounded_up_from_its_digits(n: int, fraction: float, f: int):
    """In floating point, 0.1 times 30 is a little more than 3."""
    assert hostile_among(n, fraction) == f


# What hostile updates can do.


def attacked(rng: np.random.Generator, f: int, honest: np.ndarray, largest: float) -> Tensor:
    """Return honest rows and f hostile ones in a random order: all the same, at random, or one coordinate wrong."""
    d = honest.shape[1]
    hostile = {
        "together": np.tile(rng.choice([-largest, largest], d), (f, 1)),
        "apart": rng.uniform(-largest, largest, (f, d)),
        "almost honest": rng.permutation(honest)[:f] + largest * (np.arange(d) == rng.integers(d)),
    }[rng.choice(["together", "apart", "almost honest"])]
    return torch.from_numpy(rng.permutation(np.concatenate([honest, hostile])))


@rules
@pytest.mark.parametrize("largest", [1e30, LARGEST])
@few
@given(seed=seeds, f=st.integers(0, 4), more=st.integers(0, 4), d=st.integers(1, 6))
def test_hostile_updates_do_not_decide(name: str, seed: int, f: int, more: int, d: int, largest: float):
    rng = np.random.default_rng(seed)
    honest = rng.normal(rng.normal(size=d), size=(fewest(name, f) + more - f, d))
    rows = attacked(rng, f, honest, largest)
    found = RULES[name](rows, f).numpy()
    n, middle = len(rows), honest.mean(axis=0)
    radius = np.linalg.norm(honest - middle, axis=1).max()
    if name == "geometric median":  # Cohen et al. 2016, arXiv:1606.05225, lemma 24
        assert np.linalg.norm(found - middle) <= 2 * (n - f) / (n - 2 * f) * radius * (1 + 1e-6)
    elif name == "centred clipping":
        assert np.linalg.norm(found - coordinate_median(rows).numpy()) <= STEPS * RADIUS * (1 + 1e-12)
    else:
        assert name in IN_HONEST_RANGE
        assert (found >= honest.min(axis=0) - 1e-12).all()
        assert (found <= honest.max(axis=0) + 1e-12).all()


def test_a_single_hostile_update_decides_the_mean():
    """Else the law above would hold for any rule."""
    honest = normal(0, 99, 3).numpy()
    rows = attacked(np.random.default_rng(0), 1, honest, 1e30)
    assert rows.mean(dim=0).abs().max() > 1e27


@given(seed=seeds, f=st.integers(0, 4), more=st.integers(0, 4), d=st.integers(1, 6))
def test_honest_updates_are_mixed_with_honest_ones(seed: int, f: int, more: int, d: int):
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(f + 1 + more, d))
    rows = torch.from_numpy(np.concatenate([honest, np.full((f, d), 1e30)]))
    np.testing.assert_allclose(mixed_with_nearest(rows, f)[: len(honest)], np.tile(honest.mean(0), (len(honest), 1)))


@rules
def test_the_largest_float32_numbers_give_numbers(name: str):
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = torch.from_numpy(rng.choice([-LARGEST, 0.0, LARGEST], (11, 1000)))
        assert RULES[name](rows, 2).isfinite().all()


# Symmetries.


@rules
@few
@given(seed=seeds, f=st.integers(0, 4), more=st.integers(0, 3), d=st.integers(1, 5))
def test_the_order_of_updates_does_not_matter(name: str, seed: int, f: int, more: int, d: int):
    """Unless scores are equal: as always where Krum counts one neighbour and two rows are each other's nearest."""
    assume(not (name in ("Krum", "multi-Krum") and f + more == 0) and not (name == "Bulyan" and f in (1, 2)))
    rows = normal(seed, fewest(name, f) + more, d)
    other = rows[np.random.default_rng(seed).permutation(len(rows))]
    one, two = RULES[name](rows, f), RULES[name](other, f)
    if name in ("median", "trimmed mean", "Krum"):
        assert torch.equal(one, two)
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@rules
@few
@given(seed=seeds, f=st.integers(0, 3), more=st.integers(0, 3), d=st.integers(1, 5), power=st.integers(0, 20))
def test_what_all_updates_have_in_common_costs_no_digits(name: str, seed: int, f: int, more: int, d: int, power: int):
    """Numbers are multiples of 2^-30 below 2^23, so that their sums and differences are exact; rows are about 2^-15."""
    rows = torch.round(normal(seed, fewest(name, f) + more, d) * 2**15) / 2**30
    common = torch.round(normal(seed + 1, 1, d)[0] * 2**15) / 2**15 * 2**power
    np.testing.assert_allclose(RULES[name](rows + common, f) - common, RULES[name](rows, f), rtol=0, atol=1e-9)


@rules
@few
@given(row=arrays(np.float32, 3, elements=single), f=st.integers(0, 3), more=st.integers(0, 9))
def test_equal_updates_give_that_update(name: str, row: np.ndarray, f: int, more: int):
    rows = torch.from_numpy(np.tile(row.astype(float), (fewest(name, f) + more, 1)))
    assert torch.equal(RULES[name](rows, f), rows[0])


@rules
def test_the_number_of_threads_changes_no_bit(name: str):
    rows = normal(0, 11, 100_000)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(RULES[name](rows, 2).numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


@rules
@pytest.mark.parametrize("f", [0, 1, 3])
def test_too_few_updates_are_an_error(name: str, f: int):
    n = fewest(name, f)
    assert len(RULES[name](normal(0, n, 2), f)) == 2
    if name in ("trimmed mean", "Krum", "multi-Krum", "Bulyan", "mixing, then median"):
        with pytest.raises(ValueError, match=f"^{n - 1} updates are too few: this takes {n}$"):
            RULES[name](normal(0, n - 1, 2), f)


# The aggregations.


ROBUST = {name: kind for name, kind in AGGREGATORS.items() if kind.robust}
COLLECTING = {name: kind for name, kind in ROBUST.items() if kind.collects}

collecting = pytest.mark.parametrize("name", COLLECTING)


def updates_of(deltas: Tensor, buffers: Tensor | None = None, weight: float = 0.1) -> list[Update]:
    """The updates of clients 0, 1, ... with these rows; of weight w, 2w, ..."""
    report = ClientReport(1, 0, 10, 1, 0.0, None, None, 0, None, None)
    states = [{}] * len(deltas) if buffers is None else [{"mean": row, "count": row[0].long()} for row in buffers]
    return [
        Update(client, weight * (client + 1), report, delta.float(), state)
        for client, (delta, state) in enumerate(zip(deltas, states, strict=True))
    ]


def result_of(
    aggregator: Aggregator[Any], updates: Sequence[Update], state: dict[str, Tensor] | None = None
) -> Aggregate:
    total = aggregator.empty()
    for update in updates:
        total = aggregator.add(total, update)
    return aggregator.result(total, ServerContext(1, len(updates), 0, {} if state is None else state))


EXPECTED: dict[str, Rule] = {  # of 15 updates with the parameters' defaults, by which f is 3
    "median": lambda rows, f: coordinate_median(rows),
    "trimmed-mean": trimmed_mean,
    "krum": krum,
    "multi-krum": multi_krum,
    "bulyan": bulyan,
    "geometric-median": lambda rows, f: geometric_median(rows, 1e-6, 100, 1e-6),
    "centered-clipping": lambda rows, f: centered_clipping(rows, torch.zeros(4, dtype=torch.float64), 2.0, 3),
}


@collecting
def test_an_aggregation_is_its_rule_of_the_deltas_whatever_their_weights(name: str):
    rows = normal(0, 15, 4).float().double()
    found = result_of(COLLECTING[name](), updates_of(rows))
    assert torch.equal(found.delta, EXPECTED[name](rows, 3))
    assert (found.buffers, found.sums, found.scalars) == ({}, {}, {})


@collecting
def test_hostile_buffers_do_not_decide(name: str):
    """Their deltas are those of honest clients, and no rule of deltas finds them."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, buffers = rng.normal(size=(15, 4)), rng.uniform(0, 100, (15, 2))
        hostile = rng.permutation(15)[:3]
        honest = np.delete(buffers, hostile, axis=0)
        buffers[hostile] = rng.choice([-1e15, 1e15], (3, 1))
        found = result_of(COLLECTING[name](), updates_of(torch.from_numpy(rows), torch.from_numpy(buffers))).buffers
        assert (honest.min(0) <= found["mean"].numpy()).all()
        assert (found["mean"].numpy() <= honest.max(0)).all()
        assert found["count"].shape == ()
        assert int(honest.min()) <= found["count"] <= honest.max()


def test_the_clipping_centre_is_the_last_aggregate():
    rows, state = normal(0, 5, 4), {}
    aggregator = CenteredClipping(radius=0.1, iterations=2)
    first = result_of(aggregator, updates_of(rows), state).delta
    second = result_of(aggregator, updates_of(rows), state).delta
    exact = rows.float().double()
    assert torch.equal(first, centered_clipping(exact, torch.zeros(4, dtype=torch.float64), 0.1, 2))
    assert torch.equal(second, centered_clipping(exact, first, 0.1, 2))
    assert not torch.equal(first, second)


@given(rows=arrays(np.float32, (5, 3), elements=st.floats(-LARGEST, LARGEST, width=32)), norm=st.floats(1e-2, 1e3))
def test_norm_bounding_is_the_mean_of_bounded_updates(rows: np.ndarray, norm: float):
    updates = updates_of(torch.from_numpy(rows))
    found = result_of(NormBounding(norm=norm), updates).delta.numpy()
    short = [bounded(torch.from_numpy(row), norm).numpy() for row in rows]
    np.testing.assert_allclose(found, np.average(short, axis=0, weights=[1, 2, 3, 4, 5]), rtol=1e-9, atol=1e-9)
    assert np.linalg.norm(found) <= norm * (1 + 1e-9)


def test_norm_bounding_is_the_mean_of_updates_that_are_short():
    updates = updates_of(normal(0, 5, 4) / 10)
    assert torch.equal(result_of(NormBounding(norm=3.0), updates).delta, result_of(Mean(), updates).delta)


@collecting
def test_mixed_updates_are_aggregated_in_place_of_the_updates(name: str):
    rows, buffers = normal(0, 15, 4).float().double(), normal(1, 15, 2)
    aggregator = COLLECTING[name]()
    mixed = Mixed(aggregator=aggregator, mixing=NearestNeighbours(hostile=0.3))
    found = result_of(mixed, updates_of(rows, buffers))
    assert torch.equal(found.delta, EXPECTED[name](mixed_with_nearest(rows, 5), 3))
    plain = result_of(aggregator, updates_of(rows, buffers))
    assert torch.equal(found.buffers["mean"], plain.buffers["mean"])


# Which parameters go together.


@pytest.mark.parametrize("strategy", [name for name, kind in STRATEGIES.items() if kind.sends_besides])
@pytest.mark.parametrize("name", ROBUST)
def test_strategies_that_send_more_than_updates_are_refused(name: str, strategy: str):
    with pytest.raises(ValidationError, match=f"aggregation: {name} does not go with strategy {strategy}, "):
        Federated(aggregation=name, strategy=strategy, clients_per_round=15)
    assert Federated(aggregation=name, clients_per_round=15).aggregator == ROBUST[name]()


@pytest.mark.parametrize(
    ("name", "hostile", "enough"),
    [
        ("trimmed-mean", 0.2, {1: False, 2: False, 3: True, 5: True, 6: True}),
        ("krum", 0.2, {1: False, 4: False, 5: True, 6: False, 7: True}),  # f = 1, 1, 1, 2, 2
        ("multi-krum", 0.0, {2: False, 3: True}),
        ("bulyan", 0.2, {7: False, 11: False, 14: False, 15: True, 16: False, 19: True}),
        ("median", None, {0: False, 1: True}),
        ("centered-clipping", None, {0: False, 1: True}),
    ],
)
def test_a_cohort_is_large_enough_or_refused(name: str, hostile: float | None, enough: dict[int, bool]):
    """With the size of one that is."""
    block = {} if hostile is None else {name: {"hostile": hostile}}
    for n, expected in enough.items():
        aggregator = AGGREGATORS[name].model_validate(block.get(name, {}))
        assert aggregator.enough(n) == expected
        setting = {"aggregation": name, "clients_per_round": max(n, 1), **block}
        if expected:
            assert len(result_of(Federated.model_validate(setting).aggregator, updates_of(normal(0, n, 2))).delta) == 2
        elif n:
            larger = next(other for other in range(n, 100) if aggregator.enough(other))
            with pytest.raises(ValidationError, match=rf"_round: {n} is too few for {name} .*; {larger} or a "):
                Federated.model_validate(setting)


def test_mixing_that_needs_a_larger_cohort_says_so():
    setting: dict[str, Any] = {"aggregation": "median", "mixing": "nnm", "nnm": {"hostile": 0.45}}
    with pytest.raises(ValidationError, match=r"10 is too few for nnm .*; 11 or a smaller nnm\.hostile would do"):
        Federated.model_validate({**setting, "clients_per_round": 10})
    assert isinstance(Federated.model_validate({**setting, "clients_per_round": 11}).aggregator, Mixed)


def test_only_what_sees_every_update_is_mixed():
    for name, kind in AGGREGATORS.items():
        setting = {"aggregation": name, "mixing": "nnm", "clients_per_round": 15}
        if kind.collects:
            Federated.model_validate(setting)
        else:
            with pytest.raises(ValidationError, match=f"nnm needs each update by itself, and aggregation {name} "):
                Federated.model_validate(setting)


# Federations.


class Reversed(Attack):
    """Send the opposite, a hundred times as long."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=-100 * update.delta)


BOUNDS = {"centered-clipping": {"radius": 0.3}, "norm-bounding": {"norm": 0.3}}  # what honest updates come to
FEW: dict[str, Any] = {"model": Logistic(), "rounds": 3, "clients_per_round": 5, "attack": Reversed(), "attackers": 0.2}


@pytest.fixture(scope="module")
def honest(folder: Path, test: Path) -> float:
    """The accuracy without hostile clients."""
    return accuracy(folder, test, attack="none")


def accuracy(folder: Path, test: Path, **more: Any) -> float:
    evaluation = federate(folder, test, **FEW | more)[-1][1].test
    assert evaluation
    return evaluation.accuracy


def test_the_mean_does_not_bear_a_hostile_client(honest: float, folder: Path, test: Path):
    assert honest > 0.7
    assert accuracy(folder, test) < 0.3


@pytest.mark.parametrize(
    ("name", "mixing"),
    [*((name, "none") for name in ROBUST if name != "bulyan"), ("median", "nnm")],  # Bulyan needs seven clients
)
def test_training_bears_a_hostile_client(name: str, mixing: str, honest: float, folder: Path, test: Path):
    assert accuracy(folder, test, aggregation=name, mixing=mixing, **BOUNDS) > honest - 0.15


def test_engines_and_interruptions_change_no_bit(folder: Path, test: Path, tmp_path: Path):
    setting: dict[str, Any] = {**FEW, "aggregation": "centered-clipping", "mixing": "nnm"}
    expected = federate(folder, test, **setting)
    for compute in (Compute(engine="threads", workers=3), Compute(engine="processes", workers=2)):
        states = tmp_path / compute.engine
        part = federate(folder, test, states=states, stop=1, compute=compute, **setting)
        saved = ServerState.decode(part[-1][0].encode())
        rest = federate(folder, test, states=states, state=saved, compute=compute, **setting)
        assert rest[-1][0].encode() == expected[-1][0].encode()


def test_a_round_with_too_few_updates_is_skipped(folder: Path, test: Path):
    setting: dict[str, Any] = {"aggregation": "krum", "dropout": 0.3, "rounds": 8, "model": Logistic()}
    rounds = [round for _, round in federate(folder, test, clients_per_round=5, **setting)]
    assert {round.skipped for round in rounds} == {True, False}
    assert all(round.skipped == (round.returned < 5) for round in rounds)  # of fewer, f = 1 too
