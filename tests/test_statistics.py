"""What is said of results over seeds is what statistics says: by scipy, statsmodels, published examples and laws."""

import math
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from fedpipe.studies.statistics import (
    Interval,
    TimeToTarget,
    holm,
    paired,
    rounds_to,
    summarise,
    time_to_target,
)
from tests.conftest import ROOT

accuracies = st.integers(0, 10_000).map(lambda right: right / 10_000)
runs = st.lists(accuracies, min_size=3, max_size=12)
whole_numbers = st.lists(st.integers(0, 10_000), min_size=3, max_size=12)
pairs = st.lists(st.tuples(accuracies, accuracies), min_size=3, max_size=8)
probabilities = st.floats(0, 1)


def differing(values: Sequence[float]) -> bool:
    return len(set(values)) > 1


def there(*values: float | None) -> list[float]:
    """The values, of which none lacks."""
    assert None not in values
    return [value for value in values if value is not None]


def by_seed(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[dict[int, float | None], ...]:
    """The values and the baseline's, by seed."""
    return tuple(dict(enumerate(column, 1)) for column in zip(*pairs, strict=True))


def wilcoxon(differences: np.ndarray, **options: Any) -> float:
    """The p-value of scipy."""
    result: Any = stats.wilcoxon(differences, **options)
    return result.pvalue


# Student 1908: hours of sleep that ten patients gained by each of two drugs.
SLEEP = [
    (0.7, 1.9), (-1.6, 0.8), (-0.2, 1.1), (-1.2, 0.1), (-0.1, -0.1), (3.4, 4.4), (3.7, 5.5), (0.8, 1.6), (0.0, 4.6),
    (2.0, 3.4),
]  # fmt: skip

# Hollander and Wolfe 1973, page 29: a score of depression at two visits of nine patients.
DEPRESSION = [
    (1.83, 0.878), (0.50, 0.647), (1.62, 0.598), (2.48, 2.05), (1.68, 1.06), (1.88, 1.29), (1.55, 1.06), (3.06, 3.14),
    (1.30, 1.29),
]  # fmt: skip

# Gehan 1965: weeks in remission of 21 patients on 6-MP, and of those who were still in it when the trial ended.
REMISSIONS = [6, 6, 6, 7, 10, 13, 16, 22, 23]
STILL_IN_REMISSION = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]


# A measure over seeds


@given(runs)
def test_mean_deviation_and_t_interval_are_those_of_statsmodels(values: list[float]):
    assume(differing(values))
    found, expected = summarise(values), DescrStatsW(values)
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert (found.low, found.high) == pytest.approx(expected.tconfint_mean())
    assert found.runs == len(values)


@pytest.mark.parametrize("runs", [10, 20, 40])
def test_the_bootstrap_interval_is_the_bca_of_scipy(runs: int):
    """To what 9,999 draws tell, of skewed values, for which it is not symmetric."""
    values = np.random.default_rng(runs).exponential(1, runs)
    found = summarise(values.tolist(), interval="bootstrap", seed=1)
    expected = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(2)).confidence_interval
    tolerance = 0.05 * (expected.high - expected.low)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)
    assert found != summarise(values.tolist(), interval="bootstrap", seed=3)
    assert found == summarise(values.tolist(), interval="bootstrap", seed=1)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@settings(max_examples=15)
@given(values=runs, order=st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_nothing(interval: Interval, values: list[float], order):
    shuffled = list(values)
    order.shuffle(shuffled)
    assert summarise(values, interval=interval) == summarise(shuffled, interval=interval)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@settings(max_examples=15)
@given(values=whole_numbers, shift=st.integers(-1000, 1000), scale=st.sampled_from([0.25, 2, 1024]))
def test_interval_and_deviation_move_and_stretch_with_the_values(
    interval: Interval, values: list[int], shift: int, scale: float
):
    before = summarise(values, interval=interval)
    after = summarise([scale * (value + shift) for value in values], interval=interval)
    expected = [scale * (value + shift) for value in there(before.mean, before.low, before.high)]
    assert there(after.mean, after.low, after.high) == pytest.approx(expected)
    assert there(after.std) == pytest.approx([scale * value for value in there(before.std)])


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_the_higher_the_level_the_wider_the_interval(interval: Interval):
    values = [0.91, 0.95, 0.93, 0.96, 0.9]
    narrow, wide = (summarise(values, level=level, interval=interval) for level in (0.8, 0.99))
    low, inner_low, inner_high, high = there(wide.low, narrow.low, narrow.high, wide.high)
    assert low < inner_low < inner_high < high


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@pytest.mark.parametrize("value", [0.1, 0.0, 0.98, 1e9, -3.3])
def test_values_that_are_all_equal_have_no_spread(interval: Interval, value: float):
    found = summarise([value] * 5, interval=interval)
    assert (found.mean, found.std, found.low, found.high) == (value, 0, value, value)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_values_that_differ_by_the_last_bit_have_an_interval(interval: Interval):
    found = summarise([1.0, 1.0, 1.0, math.nextafter(1, 2)], interval=interval)
    assert found.low is not None
    assert found.high is not None
    assert 0.999 < found.low <= found.high < 1.001


def test_one_or_two_runs_have_no_interval_and_none_has_nothing():
    none, one, two, three = (summarise([0.9, 0.8, 0.7][:n]) for n in range(4))
    assert (none.runs, none.mean, none.std, none.low, none.high) == (0, None, None, None, None)
    assert (one.runs, one.mean, one.std, one.low, one.high) == (1, 0.9, None, None, None)
    assert two.mean == pytest.approx(0.85)
    assert two.std == pytest.approx(0.1 / math.sqrt(2))
    assert (two.low, two.high) == (None, None)
    assert three.low is not None


@pytest.mark.parametrize("no_number", [None, math.nan, math.inf])
def test_runs_without_a_number_and_diverged_ones_are_counted_and_never_averaged(no_number: float | None):
    found = summarise([0.9, no_number, 0.8, 0.7], diverged=2)
    assert (found.runs, found.missing, found.diverged) == (3, 1, 2)
    clean = summarise([0.9, 0.8, 0.7])
    assert (found.mean, found.std, found.low, found.high) == (clean.mean, clean.std, clean.low, clean.high)


# A difference from a baseline


def test_the_paired_t_test_of_students_sleep_data_is_the_published_one():
    found = paired(*by_seed(SLEEP))
    assert found.pairs == 10
    assert found.mean == pytest.approx(-1.58)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)
    assert found.p_t == pytest.approx(0.00283289, abs=1e-7)


def test_wilcoxons_test_of_hollander_and_wolfes_example_is_the_published_one():
    assert paired(*by_seed(DEPRESSION)).p_wilcoxon == pytest.approx(2 * 0.01953125)


@settings(max_examples=30)
@given(pairs)
def test_p_values_are_those_of_scipy_on_differences_without_rounding(pairs: list[tuple[float, float]]):
    """Of counts of right answers, which are whole numbers, for they have no rounding."""
    ours, baseline = ([round(10_000 * value) for value in column] for column in zip(*pairs, strict=True))
    assume(differing([a - b for a, b in zip(ours, baseline, strict=True)]))
    found = paired(*by_seed(pairs))
    expected = stats.ttest_rel(ours, baseline)
    assert found.p_t == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low / 10_000, interval.high / 10_000), abs=1e-9)
    assert found.p_wilcoxon == pytest.approx(wilcoxon(np.array(ours) - baseline))


@settings(max_examples=30)
@given(st.lists(st.integers(-3, 3), min_size=3, max_size=8).filter(any))
def test_wilcoxons_p_is_the_share_of_signs_with_as_extreme_a_sum_of_ranks(hundredths: list[int]):
    """By trying every assignment of signs, with ties and zeros as few seeds give them."""
    found = paired({k: 0.9 + d / 100 for k, d in enumerate(hundredths)}, dict.fromkeys(range(len(hundredths)), 0.9))
    differences = np.array([d for d in hundredths if d])
    ranks = stats.rankdata(abs(differences))
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(ranks))])
    middle, seen = ranks.sum() / 2, ranks[differences > 0].sum()
    expected = np.mean(abs(sums - middle) >= abs(seen - middle) - 1e-9)
    assert found.p_wilcoxon == pytest.approx(expected)


@settings(max_examples=20)
@given(pairs, st.randoms(use_true_random=False))
def test_a_difference_the_other_way_round_has_the_other_sign_and_the_same_p(pairs: list[tuple[float, float]], order):
    values, baseline = by_seed(pairs)
    forth = paired(values, baseline)
    shuffled = list(values.items())
    order.shuffle(shuffled)
    assert paired(dict(shuffled), baseline) == forth
    back = paired(baseline, values)
    assert there(forth.mean, forth.low, forth.high) == pytest.approx(
        [-x for x in there(back.mean, back.high, back.low)]
    )
    assert forth.p_t == (back.p_t and pytest.approx(back.p_t))
    assert forth.p_wilcoxon == pytest.approx(back.p_wilcoxon)


def test_only_seeds_of_both_are_compared_and_the_rest_is_counted():
    found = paired({1: 0.9, 2: 0.8, 3: 0.7, 4: None, 7: 0.5}, {4: 0.5, 3: 0.6, 2: math.nan, 1: 0.7, 9: 0.1})
    assert (found.pairs, found.lost, found.unpaired) == (2, 2, 2)
    assert found.mean == pytest.approx(0.15)
    assert found.std == pytest.approx(0.1 / math.sqrt(2))
    assert (found.low, found.high, found.p_t, found.p_wilcoxon) == (None, None, None, None)


def test_without_a_common_seed_there_is_no_difference():
    found = paired({1: 0.9}, {2: 0.8})
    assert (found.pairs, found.unpaired, found.mean, found.std, found.p_t) == (0, 2, None, None, None)


def test_equal_runs_give_no_reason_to_doubt_that_they_are_equal():
    found = paired({1: 0.9, 2: 0.8, 3: 0.7}, {1: 0.9, 2: 0.8, 3: 0.7})
    assert (found.mean, found.low, found.high, found.p_t, found.p_wilcoxon) == (0, 0, 0, 1, 1)


def test_the_same_difference_at_every_seed_has_no_t_statistic():
    """0.97 - 0.96 and 0.95 - 0.94 are not the same in floating-point arithmetic."""
    found = paired({1: 0.97, 2: 0.95, 3: 0.93, 4: 0.4}, {1: 0.96, 2: 0.94, 3: 0.92, 4: 0.39})
    assert (found.mean, found.std, found.low, found.high) == pytest.approx((0.01, 0, 0.01, 0.01))
    assert found.p_t is None
    assert found.p_wilcoxon == 2 / 2**4


@pytest.mark.parametrize("seeds", [5, 20, 50])
def test_wilcoxons_p_without_ties_is_the_exact_one_of_scipy(seeds: int):
    ours, baseline = np.random.default_rng(seeds).normal(0.9, 0.05, (2, seeds))
    found = paired(dict(enumerate(ours.tolist())), dict(enumerate((baseline - 0.01).tolist())))
    assert found.p_wilcoxon == pytest.approx(wilcoxon(ours - (baseline - 0.01), method="exact"))


@pytest.mark.parametrize("seeds", range(3, 9))
def test_wilcoxons_p_cannot_fall_below_two_in_two_to_the_number_of_pairs(seeds: int):
    values = {seed: 0.9 + seed / 1000 for seed in range(1, seeds + 1)}
    assert paired(values, dict.fromkeys(values, 0.1)).p_wilcoxon == pytest.approx(2 / 2**seeds)


# Several comparisons


@settings(max_examples=5)
@given(st.lists(probabilities, min_size=1, max_size=20))
def test_holms_adjustment_is_that_of_statsmodels(ps: list[float]):
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


@given(st.lists(st.one_of(st.none(), probabilities), max_size=20))
def test_an_adjusted_p_is_no_smaller_keeps_its_place_and_its_order_and_none_stays(ps: list[float | None]):
    adjusted = holm(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    both = [(p, q) for p, q in zip(ps, adjusted, strict=True) if p is not None and q is not None]
    assert all(p <= q <= 1 for p, q in both)
    assert [q for _, q in sorted(both)] == sorted(q for _, q in both)
    assert [q for _, q in both] == holm([p for p, _ in both])  # None does not count


def test_holms_adjustment_of_a_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04]) == [0.04]
    assert holm([math.nan, 0.03]) == [None, 0.03]


# Rounds to a target


@given(
    st.lists(st.tuples(st.integers(1, 1000), accuracies), min_size=1, max_size=20, unique_by=lambda one: one[0]),
    st.integers(1, 10_000).map(lambda right: right / 10_000),
)
def test_a_run_reaches_its_target_where_the_best_so_far_drawn_with_straight_lines_does(
    curve: list[tuple[int, float]], target: float
):
    rounds, accuracy = (list(column) for column in zip(*sorted(curve), strict=True))
    best = np.maximum.accumulate(accuracy)
    found = rounds_to(target, rounds, accuracy)
    if best[-1] < target:
        assert found is None
    elif best[0] >= target:
        assert found == rounds[0]
    else:
        assert found is not None
        assert np.interp(found, rounds, best) == pytest.approx(target)
        assert all((best >= target) == (np.array(rounds) >= found))


def test_a_crossing_is_interpolated_from_the_best_so_far_not_from_the_last_round():
    """From 0.8 at round 10, as 0.5 at round 20 is no progress, to 0.9 at round 30: evaluated every ten rounds."""
    assert rounds_to(0.85, [10, 20, 30], [0.8, 0.5, 0.9]) == pytest.approx(25)
    assert rounds_to(0.85, [10, 15, 20, 30], [0.8, None, math.nan, 0.9]) == pytest.approx(20)
    assert rounds_to(0.9, [10, 20, 30], [0.8, 0.5, 0.9]) == 30
    assert rounds_to(0.8, [10, 20], [0.8, 0.9]) == 10
    assert rounds_to(0.5, [0, 10], [0.25, 0.75]) == 5
    assert rounds_to(0.95, [10, 20], [0.8, 0.9]) is None
    assert rounds_to(0.5, [], []) is None


def test_the_median_of_gehans_remissions_is_the_published_one():
    times = [*REMISSIONS, *[None] * len(STILL_IN_REMISSION)]
    found = time_to_target(times, [*REMISSIONS, *STILL_IN_REMISSION])
    assert found == TimeToTarget(reached=9, runs=21, median=23, low=13, high=None, last=35)


censored_runs = st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=7, max_size=25)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # of statsmodels, once none is left
@given(censored_runs)
def test_median_and_interval_over_runs_that_ended_anywhere_are_those_of_statsmodels(ended: list[tuple[int, bool]]):
    ends, reached = (np.array(column) for column in zip(*ended, strict=True))
    assume(reached.any())
    found = time_to_target([end if so else None for end, so in ended], ends.tolist())
    expected: Any = SurvfuncRight(ends, reached.astype(int))
    probabilities = expected.surv_prob
    if not np.isclose(probabilities, 0.5).any():  # where it takes the next time, and we the middle, as R does
        median = expected.quantile(0.5)
        assert found.median == (None if math.isnan(median) else median)
    if probabilities[-1] > 0:  # else statsmodels ends the interval where the last run does, whatever its level
        low, high = expected.quantile_ci(0.5)
        assert found.high == (high if math.isfinite(high) else None)
        assert found.low == (None if math.isnan(low) else low)


@given(st.lists(st.one_of(st.none(), st.integers(1, 100)), min_size=1, max_size=15))
def test_the_median_is_the_ordinary_one_if_those_that_never_got_there_all_ended_together(times: list[int | None]):
    found = time_to_target(times, [100] * len(times))
    late = np.array([math.inf if time is None else time for time in times])
    with np.errstate(invalid="ignore"):
        expected = np.median(late)
    assert found.median == (expected if math.isfinite(expected) else None)
    assert found.reached == np.isfinite(late).sum()
    assert found.last == (100 if None in times else max(late))


def test_a_run_that_diverged_would_never_have_reached_the_target():
    """It ended at round 3, and still counts among those that are slower than all."""
    found = time_to_target([10, 20, None, None, 30], [50, 50, math.inf, math.inf, 50])
    assert (found.reached, found.runs, found.median, found.last) == (3, 5, 30, 30)
    found = time_to_target([10, None, None], [50, math.inf, math.inf])
    assert (found.median, found.last) == (None, 10)
    assert time_to_target([None], [math.inf]) == TimeToTarget(0, 1, None, None, None, None)
    assert time_to_target([], []) == TimeToTarget(0, 0, None, None, None, None)


def test_few_runs_leave_the_interval_of_the_median_open():
    assert time_to_target([10, 20, 30, 40], [50] * 4).low is None
    five = time_to_target([10, 20, 30, 40, 45], [50] * 5)
    assert (five.low, five.high) == (10, None)
    seven = time_to_target([10, 20, 30, 40, 45, 46, 47], [50] * 7)
    assert seven.high is not None


# How often an interval holds what it should


def covered(draw: np.ndarray, truth: float, interval: Interval) -> float:
    """The share of rows whose interval holds the true mean."""
    found = [summarise(values, interval=interval) for values in draw.tolist()]
    bounds = np.array([there(one.low, one.high) for one in found])
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_95_of_100_t_intervals_of_normal_values_hold_their_mean(seeds: int):
    rows = 1000
    values = np.random.default_rng(1).normal(0.97, 0.01, (rows, seeds))
    assert covered(values, 0.97, "t") == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / rows))


def test_of_two_equal_algorithms_one_in_twenty_differs_by_the_t_test():
    rows, random = 500, np.random.default_rng(2)
    seed_effect = random.normal(0, 0.05, (rows, 5))
    ours, baseline = (seed_effect + random.normal(0.9, 0.01, (rows, 5)) for _ in range(2))
    ps = [
        paired(dict(enumerate(a)), dict(enumerate(b))).p_t
        for a, b in zip(ours.tolist(), baseline.tolist(), strict=True)
    ]
    assert np.mean([p < 0.05 for p in ps if p is not None]) == pytest.approx(0.05, abs=4 * math.sqrt(0.0475 / rows))


def skewed(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Accuracies most of which are alike, and some much lower; their mean is 0."""
    return 1 - random.exponential(1, shape)


@pytest.mark.slow
def test_the_page_tells_how_many_intervals_hold_the_mean():
    """Its table, to four standard errors of this simulation and its own."""
    rows, random = 2000, np.random.default_rng(3)
    page = (ROOT / "docs/statistics.md").read_text()
    told = re.findall(r"^\| (\d+) \| (\d+\.\d) \| (\d+\.\d) \| (\d+\.\d) \| (\d+\.\d) \|$", page, re.MULTILINE)
    assert [int(line[0]) for line in told] == [3, 5, 10, 20]
    for seeds, *shares in told:
        shape = rows, int(seeds)
        simulated = [
            covered(draw, 0, interval)
            for draw in (random.normal(0, 1, shape), skewed(random, shape))
            for interval in ("t", "bootstrap")
        ]
        for share, found in zip(shares, simulated, strict=True):
            error = math.sqrt(2 * max(found * (1 - found), 0.01) / rows)
            assert float(share) / 100 == pytest.approx(found, abs=4 * error), (seeds, shares, simulated)
