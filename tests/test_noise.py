"""Noise is the discrete Gaussian exactly: its coins are decided by as many bits as it takes."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedpipe.privacy import noise
from fedpipe.privacy.noise import LARGEST_SIGMA, discrete_gaussian, reproducible, secret
from fedpipe.system.randomness import generator


def bits(seed: int = 0) -> noise.Bits:
    return reproducible(generator(seed, "test"))


def fit(drawn: np.ndarray, sigma: int) -> float:
    """The p-value of Pearson's chi-square test of draws against the exact probabilities."""
    reach = 4 * sigma
    x = np.arange(-20 * sigma, 20 * sigma + 1)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    probabilities = weights / weights.sum()
    inside = np.abs(x) <= reach
    cells = [*probabilities[inside], probabilities[x < -reach].sum(), probabilities[x > reach].sum()]
    counts = [*(np.sum(drawn == value) for value in x[inside]), np.sum(drawn < -reach), np.sum(drawn > reach)]
    return stats.chisquare(counts, len(drawn) * np.array(cells)).pvalue


@pytest.mark.parametrize("sigma", [1, 2, 5])
def test_small_noise_has_the_exact_distribution(sigma: int):
    assert fit(discrete_gaussian(sigma, 200_000, bits()), sigma) > 1e-3


def test_the_test_tells_a_rounded_gaussian_from_it():
    """Else the law above would say little: of rounded numbers, more are 0."""
    rounded = np.round(generator(0, "test").normal(0, 1, 200_000))
    assert fit(rounded, 1) < 1e-12


@pytest.mark.parametrize("sigma", [2**20, 3**18, 2**40])
def test_large_noise_is_gaussian(sigma: int):
    drawn = discrete_gaussian(sigma, 200_000, bits(1))
    assert drawn.dtype == np.int64
    assert stats.kstest(drawn / sigma, "norm").pvalue > 1e-3
    assert np.var(drawn / sigma) == pytest.approx(1, abs=5 * math.sqrt(2 / 200_000))
    assert stats.chisquare(np.bincount(drawn % 7)).pvalue > 1e-3  # down to the last digit


def test_numbers_are_independent_of_those_before():
    drawn = discrete_gaussian(2**30, 200_000, bits(2)) / 2**30
    for lag in (1, 2, 3):
        assert abs(np.mean(drawn[lag:] * drawn[:-lag])) < 5 / math.sqrt(200_000)


def test_coins_that_exact_arithmetic_decides_are_no_different(monkeypatch: pytest.MonkeyPatch):
    """As if floating point were wrong by a quarter: a tenth of the coins needs more."""
    monkeypatch.setattr(noise, "ERROR", 0.25)
    assert fit(discrete_gaussian(2, 20_000, bits(3)), 2) > 1e-3


@given(
    st.fractions(min_value=0, max_value=60, max_denominator=2**90).filter(lambda exponent: exponent > 0),
    st.integers(0, 3), st.sampled_from([-1, 0, 1]),
)  # fmt: skip
def test_a_coin_is_true_where_a_uniform_number_is_below_the_probability(exponent: Fraction, words: int, beside: int):
    """Also where the number agrees with the probability in 53 bits, or in 53 + 64 or more: mpmath has 400 of both."""
    with mpmath.workprec(400):
        probability = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)
        known = 53 + 64 * words
        number = int(mpmath.floor(probability * 2**known)) + beside  # the interval that it is in, or one beside
        number = min(max(number, 0), 2**known - 1)
        more = [(number >> (64 * place)) & (2**64 - 1) for place in reversed(range(words))]
        first = number >> (64 * words)
        rest = [0x9E3779B97F4A7C15] * 4
        whole = number * 2**256 + int("".join(f"{word:016x}" for word in rest), 16)
        expected = mpmath.mpf(whole) / mpmath.mpf(2) ** (known + 256) < probability
    first_word = (first << 11) | 0x5A5  # of which the coin takes 53 bits
    coin = noise._coins(np.array([float(exponent)]), lambda place: exponent, given_words([first_word, *more, *rest]))
    assert coin.tolist() == [bool(expected)]


def given_words(words: list[int]) -> noise.Bits:
    source = iter(words)
    return lambda count: np.array(list(itertools.islice(source, count)), np.uint64)


@pytest.mark.parametrize("t", [1, 2, 3, 1000, 2**40 - 1])
def test_numbers_below_a_bound_are_equally_likely(t: int):
    drawn = noise._below(t, 50_000, bits(4))
    assert drawn.min() >= 0
    assert drawn.max() < t
    cells = np.bincount(drawn * min(t, 1000) // t, minlength=min(t, 1000))
    assert t == 1 or stats.chisquare(cells, 50_000 * sizes_of_cells(t) / t).pvalue > 1e-3


def sizes_of_cells(t: int) -> np.ndarray:
    """How many of the numbers below t fall into each of (at most) 1,000 cells."""
    cells = min(t, 1000)
    edges = [-(-cell * t // cells) for cell in range(cells + 1)]
    return np.diff(edges).astype(float)


def test_the_same_bits_make_the_same_noise():
    assert discrete_gaussian(10**9, 1000, bits(5)).tolist() == discrete_gaussian(10**9, 1000, bits(5)).tolist()
    assert discrete_gaussian(10**9, 1000, bits(5)).tolist() != discrete_gaussian(10**9, 1000, bits(6)).tolist()


def test_secret_noise_is_never_the_same():
    one, other = (discrete_gaussian(10**9, 10_000, secret()) for _ in range(2))
    assert one.tolist() != other.tolist()
    assert np.std([one, other]) == pytest.approx(10**9, rel=0.1)


def test_secret_noise_takes_nothing_from_numpys_generators():
    np.random.seed(0)
    state = np.random.get_state()[1]  # pyright: ignore[reportArgumentType]
    discrete_gaussian(5, 100, secret())
    assert np.array_equal(state, np.random.get_state()[1])  # pyright: ignore[reportArgumentType]


def test_no_draws_are_none():
    assert discrete_gaussian(5, 0, bits()).tolist() == []


@pytest.mark.parametrize("sigma", [0, -1, LARGEST_SIGMA + 1])
def test_a_sigma_that_cannot_be_is_refused(sigma: int):
    with pytest.raises(ValueError, match=r"^sigma = -?\d+: it can be 1 to 2\*\*40$"):
        discrete_gaussian(sigma, 1, bits())


@given(st.fractions(min_value=0, max_value=3000, max_denominator=10**30), st.integers(20, 200))
def test_bounds_of_the_exponential_hold(exponent: Fraction, digits: int):
    low, high = noise._enclosed(exponent, digits)
    with mpmath.workdps(digits + 2000):
        true = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)
        assert mpmath.mpf(low.numerator) / low.denominator < true < mpmath.mpf(high.numerator) / high.denominator
        assert (high - low) * 10 ** (digits - 5) < high


@given(st.integers(1, LARGEST_SIGMA), st.floats(0, noise.FAR))
def test_floating_point_is_closer_to_the_probability_than_is_assumed(sigma: int, deviations: float):
    y, t = int(deviations * sigma), sigma + 1
    computed = np.exp(-((np.array([y]) / sigma - sigma / t) ** 2) / 2)[0]
    exponent = (y - Fraction(sigma**2, t)) ** 2 / (2 * sigma**2)
    with mpmath.workprec(200):
        true = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)
        assert abs(computed / true - 1) < noise.ERROR / 100
