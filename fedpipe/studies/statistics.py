"""What results over seeds say: means with intervals, paired differences with p-values, rounds to a target.

A run without a number is counted and never averaged in or away: one that diverged, or that never reached the target.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

import numpy as np

from fedpipe.system.randomness import generator

MIN_RUNS = 3  # for an interval or a p-value: two say hardly more of their own spread than one
MIN_RUNS_FOR_MEDIAN = 5  # for its interval: of fewer, all may lie on one side of it with more than 5 % probability
LEVEL = 0.95
RESAMPLES = 9_999  # of the bootstrap
DIGITS = 12  # to which differences are kept: what float64 adds beyond would tell apart what is equal

Interval = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Summary:
    """Hold what a measure came to over runs that differ in their seed alone."""

    runs: int  # that ended with a number
    diverged: int
    missing: int  # that ended without a number, for another reason
    mean: float | None  # None without a run
    std: float | None  # of a sample, with n - 1; None for fewer than 2 runs
    low: float | None  # of the interval of the mean; None for fewer than MIN_RUNS runs
    high: float | None


def summarise(
    values: Sequence[float | None],
    *,
    diverged: int = 0,
    level: float = LEVEL,
    interval: Interval = "t",
    seed: int = 0,
) -> Summary:
    """Return the mean of a measure over runs, its standard deviation, and an interval of the mean.

    If all values are equal, the interval is that value.

    Args:
        values: of the runs that did not diverge, in any order; None or NaN for one without a number.
        diverged: how many runs diverged; their last values are no results.
        level: of the interval.
        interval: ``"t"``, which is exact if the values are from a normal distribution, or ``"bootstrap"``, which
            assumes no distribution, and needs more runs to be right.
        seed: of the bootstrap's draws.

    References:
        Efron 1987, Better bootstrap confidence intervals: BCa.
    """
    numbers = np.sort([value for value in values if is_number(value)]).astype(float)
    mean, std = _mean_and_std(numbers)
    low, high = _interval(numbers, level, interval, seed)
    return Summary(len(numbers), diverged, len(values) - len(numbers), mean, std, low, high)


@dataclass(frozen=True)
class Difference:
    """Hold by how much runs differ from those of a baseline with the same seeds: their value less the baseline's."""

    pairs: int  # seeds with a number from both
    lost: int  # seeds of both at which a run has no number: it diverged, for instance
    unpaired: int  # seeds of only one of them
    mean: float | None  # None without a pair
    std: float | None  # None for fewer than 2 pairs
    low: float | None  # of the interval of the mean; None for fewer than MIN_RUNS pairs
    high: float | None
    p_t: float | None  # of the paired t test; None for fewer than MIN_RUNS pairs, and if all differ by the same amount
    p_wilcoxon: float | None  # of the signed-rank test, exact; None for fewer than MIN_RUNS pairs


def paired(
    values: Mapping[int, float | None],
    baseline: Mapping[int, float | None],
    *,
    level: float = LEVEL,
    interval: Interval = "t",
    seed: int = 0,
) -> Difference:
    """Return by how much runs differ from a baseline, seed by seed.

    Two runs with one seed share their partition, initial model and cohorts, so that the spread of their differences is
    often smaller than that of either. Both p-values are two-sided, for the hypothesis that there is no difference.

    With equal values at every seed both are 1. If all runs differ by the same amount, the t statistic is a division by
    zero, and has no p-value. Wilcoxon's test leaves out pairs of equal values, and its p is at least 2^(1 - pairs): of
    five pairs never below 0.0625.

    Args:
        values: by seed; None or NaN for a run that diverged, or has no number for another reason.
        baseline: likewise.
        level: of the interval.
        interval: of the mean difference, as in `summarise`.
        seed: of the bootstrap's draws.

    References:
        Wilcoxon 1945, Individual comparisons by ranking methods.
    """
    common = values.keys() & baseline.keys()
    pairs = [(values[one], baseline[one]) for one in common if is_number(values[one]) and is_number(baseline[one])]
    differences = _differences(np.array(pairs, dtype=float).reshape(-1, 2))
    mean, std = _mean_and_std(differences)
    low, high = _interval(differences, level, interval, seed)
    return Difference(
        pairs=len(pairs),
        lost=len(common) - len(pairs),
        unpaired=len(values.keys() ^ baseline.keys()),
        mean=mean,
        std=std,
        low=low,
        high=high,
        p_t=_p_t(differences),
        p_wilcoxon=_p_wilcoxon(differences),
    )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for being several: one below 0.05 by chance alone is then as rare as for a single test.

    Args:
        ps: of all comparisons that somebody could point at. None and NaN are no comparisons: they stay None, and do
            not count.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted: list[float | None] = [None] * len(ps)
    tests = sorted((p, position) for position, p in enumerate(ps) if is_number(p))
    largest = 0.0
    for rank, (p, position) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        adjusted[position] = largest
    return adjusted


def rounds_to(target: float, rounds: Sequence[int], accuracy: Sequence[float | None]) -> float | None:
    """Return after how many rounds a run reaches an accuracy, or None if it never does.

    The curve is the best accuracy so far, and straight between rounds that were evaluated. If the first of them already
    reaches the target, the answer is that round: nothing is known of what was before. Who wants the curve to begin
    with the initial model passes its accuracy as that of round 0.

    Args:
        target: the accuracy.
        rounds: the evaluated ones, in increasing order.
        accuracy: after each of them; None and NaN are left out.

    References:
        McMahan et al. 2017, arXiv:1602.05629, section 3.
    """
    before: tuple[float, float] | None = None
    for round, value in zip(rounds, accuracy, strict=True):
        if not is_number(value):
            continue
        if value >= target:
            if before is None:
                return float(round)
            last, best = before
            return last + (target - best) / (value - best) * (round - last)
        before = (round, value if before is None else max(before[1], value))
    return None


@dataclass(frozen=True)
class TimeToTarget:
    """Hold how many rounds runs took to a target, with those that never reached it as what they are: censored."""

    reached: int
    runs: int
    median: float | None  # None if it is not known: then it is beyond `last`
    low: float | None  # of the interval of the median; None is open
    high: float | None
    last: float | None  # the last round that any run got to; None without a run


def time_to_target(
    times: Sequence[float | None], last_rounds: Sequence[float], *, level: float = LEVEL
) -> TimeToTarget:
    """Return the median number of rounds to a target over runs, of which some never reached it.

    It is the median of the Kaplan-Meier estimate. If all runs that did not reach the target ended at the same round, it
    is the ordinary median with these as infinitely late. The interval is that of Brookmeyer and Crowley, with the
    log-log transformation; it is wide for few runs, open above for six or fewer, and open altogether for fewer than
    MIN_RUNS_FOR_MEDIAN.

    Args:
        times: the rounds to the target, from `rounds_to`, in any order; None for a run that never reached it.
        last_rounds: for each run the round that it ended at. For one that diverged, `math.inf`: it would never have
            reached the target.
        level: of the interval.

    References:
        Kaplan and Meier 1958; Brookmeyer and Crowley 1982, A confidence interval for the median survival time.
    """
    reached = np.array([is_number(time) for time in times], dtype=bool)
    ends = np.array(
        [time if is_number(time) else last for time, last in zip(times, last_rounds, strict=True)], dtype=float
    )
    seen = ends[np.isfinite(ends)]
    last = float(seen.max()) if len(seen) else None
    if not reached.any():
        return TimeToTarget(0, len(times), None, None, None, last)
    median, low, high = _median_of_censored(ends, reached, level)
    return TimeToTarget(int(reached.sum()), len(times), median, low, high, last)


def is_number(value: float | None) -> TypeGuard[float]:
    """Tell whether a run has a value: None, NaN and infinity are none."""
    return value is not None and math.isfinite(value)


def _mean_and_std(numbers: np.ndarray) -> tuple[float | None, float | None]:
    if not len(numbers):
        return None, None
    if np.ptp(numbers) == 0:  # whose mean, computed, may be another number
        return float(numbers[0]), 0.0 if len(numbers) > 1 else None
    return float(numbers.mean()), float(numbers.std(ddof=1))


def _interval(numbers: np.ndarray, level: float, interval: Interval, seed: int) -> tuple[float | None, float | None]:
    """Return an interval of the mean of numbers, which are sorted, so that their order draws no other bootstrap."""
    from scipy import stats

    if len(numbers) < MIN_RUNS:
        return None, None
    if np.ptp(numbers) == 0:
        return float(numbers[0]), float(numbers[0])
    if interval == "t":
        half = stats.t.ppf((1 + level) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers))
        return float(numbers.mean() - half), float(numbers.mean() + half)
    least = numbers[0]  # taken off, so that a large offset costs no digits
    found = stats.bootstrap(
        (numbers - least,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa",
        rng=generator(seed, "bootstrap"),
    ).confidence_interval  # fmt: skip
    return float(least + found.low), float(least + found.high)


def _differences(pairs: np.ndarray) -> np.ndarray:
    """Return first less second of each pair, sorted, with equal ones equal: 0.97 - 0.96 as 0.95 - 0.94.

    Args:
        pairs: (n, 2)
    """
    if not pairs.any():
        return np.zeros(len(pairs))
    decimals = DIGITS - math.ceil(math.log10(np.abs(pairs).max()))
    return np.sort(np.round(pairs[:, 0] - pairs[:, 1], decimals))


def _p_t(differences: np.ndarray) -> float | None:
    from scipy import stats

    if len(differences) < MIN_RUNS:
        return None
    if np.ptp(differences) == 0:
        return None if differences.any() else 1.0
    return float(stats.ttest_1samp(differences, 0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _p_wilcoxon(differences: np.ndarray) -> float | None:
    """Return the exact p, also with ties: the share of all signs with a sum of ranks as far from its mean.

    scipy's is the same, but takes a second for 13 differences with ties, and is a normal approximation for more.
    """
    from scipy import stats

    if len(differences) < MIN_RUNS:
        return None
    differences = differences[differences != 0]
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)  # twice them: of ties they are halves
    probability = np.ones(1)  # of each sum of ranks with a positive sign
    for rank in ranks:
        probability = (np.pad(probability, (0, rank)) + np.pad(probability, (rank, 0))) / 2
    sums = 2 * np.arange(len(probability))
    mean, seen = ranks.sum(), 2 * ranks[differences > 0].sum()
    return float(probability[abs(sums - mean) >= abs(seen - mean)].sum())


def _median_of_censored(
    ends: np.ndarray, reached: np.ndarray, level: float
) -> tuple[float | None, float | None, float | None]:
    """Return the median of the Kaplan-Meier estimate, and the ends of its interval.

    Args:
        ends: (runs,) when each run reached the target, or ended.
        reached: (runs,) whether it reached it.
    """
    from scipy import stats

    beyond = float(np.max(ends[np.isfinite(ends)])) + 1  # in the place of infinity: later than all that is known
    late = np.where(np.isfinite(ends), ends, beyond)
    survival = stats.ecdf(stats.CensoredData(late[reached], right=late[~reached])).sf
    times, left = survival.quantiles, survival.probabilities
    half, below = _first(times, left <= 0.5 + 1e-9), _first(times, left < 0.5 - 1e-9)
    median = None if half is None or below is None else (half + below) / 2
    if len(ends) < MIN_RUNS_FOR_MEDIAN:
        return median, None, None
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # it has no bounds where no run is left: NaN, which bounds nothing
        bounds = survival.confidence_interval(level, method="log-log")
    return median, _first(times, bounds.low.probabilities <= 0.5), _first(times, bounds.high.probabilities <= 0.5)


def _first(times: Iterable[float], where: Iterable[bool]) -> float | None:
    return next((float(time) for time, there in zip(times, where, strict=True) if there), None)
