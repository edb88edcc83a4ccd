"""Exact noise: whole numbers of the discrete Gaussian distribution, made of random bits.

Floating-point noise added to a floating-point sum leaks: which numbers can come out depends on the sum (Mironov 2012,
"On significance of the least significant bits for differential privacy"). Whole-number noise on a whole-number sum can
come out anywhere on the grid, and these draws follow their distribution exactly, not up to rounding.

The discrete Gaussian N_Z(0, σ²) has P[x] proportional to exp(-x² / 2σ²) for whole x.

References:
    Canonne, Kamath & Steinke 2020, "The discrete Gaussian for differential privacy", arXiv:2004.00010.
"""

import decimal
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction

import numpy as np

Bits = Callable[[int], np.ndarray]
"""Returns (n,) uint64, each bit of which is 0 or 1 with probability 1/2, independently of all others."""

LARGEST_SIGMA = 2**40

# A uniform number is known by its first 53 bits, so it lies in an interval of this width.
WIDTH = 2.0**-53
# Floating point computes the probabilities below with a smaller relative error: that of `np.exp` is a few 2**-53, and
# what comes from its argument, at most 32² / 2 with an absolute error of at most 32 * 33 * 2**-51, is below 2**-40.
ERROR = 2.0**-32
FAR = 32.0  # standard deviations, from which on the argument may be too large for that
BLOCK = 2**17  # proposals at a time, which a processor's cache holds


def reproducible(generator: np.random.Generator) -> Bits:
    """Return a source of bits that follow from a generator's seed. Who knows the seed knows the noise."""
    return lambda count: generator.bit_generator.random_raw(count)


def secret() -> Bits:
    """Return a source of bits of the operating system, which nobody can repeat or foretell."""
    return lambda count: np.frombuffer(os.urandom(8 * count), np.uint64)


def discrete_gaussian(sigma: int, count: int, bits: Bits) -> np.ndarray:
    """Draw from the discrete Gaussian distribution N_Z(0, sigma²), exactly.

    Args:
        sigma: a whole number from 1 to 2**40.
        count: how many numbers to draw, independently.
        bits: where the randomness comes from, as from `reproducible` or `secret`.

    Returns:
        (count,) int64.

    Raises:
        ValueError: sigma is out of range.

    References:
        arXiv:2004.00010, algorithm 3.
    """
    if not 1 <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma = {sigma}: it can be 1 to 2**40")
    t = sigma + 1
    drawn, missing = [np.empty(0, np.int64)], count
    while missing:
        y = _discrete_laplace(t, min(BLOCK, 64 + 9 * missing // 4), bits)  # of which about half are taken

        def exponent(place: int, y: np.ndarray = y) -> Fraction:
            return (abs(int(y[place])) - Fraction(sigma**2, t)) ** 2 / (2 * sigma**2)

        deviations = np.abs(y) / sigma - sigma / t
        accepted = y[_coins(deviations**2 / 2, exponent, bits, far=deviations >= FAR)]
        drawn.append(accepted[:missing])
        missing -= len(drawn[-1])
    return np.concatenate(drawn)


def _discrete_laplace(t: int, proposals: int, bits: Bits) -> np.ndarray:
    """Draw from the discrete Laplace distribution, P[x] proportional to exp(-|x| / t).

    Args:
        t: the scale, 1 to 2**40 + 1.
        proposals: of which about a third is rejected.
        bits: as above.

    Returns:
        (at most proposals,) int64.

    References:
        arXiv:2004.00010, algorithm 2, with s = 1.
    """
    u = _below(t, proposals, bits)
    u = u[_coins(u / t, lambda place: Fraction(int(u[place]), t), bits)]

    v = np.zeros(len(u), np.int64)
    going_on = np.arange(len(u))
    while len(going_on):
        going_on = going_on[_coins(np.ones(len(going_on)), lambda place: Fraction(1), bits)]
        v[going_on] += 1

    magnitude = u + t * v
    negative = _words(len(u), bits) >> np.uint64(63) == 1
    return np.where(negative, -magnitude, magnitude)[~(negative & (magnitude == 0))]


def _below(t: int, count: int, bits: Bits) -> np.ndarray:
    """Draw whole numbers from 0 to t - 1, each equally likely: (count,) int64."""
    kept, missing = [np.empty(0, np.int64)], count
    shift = np.uint64(64 - max(1, (t - 1).bit_length()))
    while missing:
        candidates = (_words(missing, bits) >> shift).astype(np.int64)
        kept.append(candidates[candidates < t])
        missing -= len(kept[-1])
    return np.concatenate(kept)


def _coins(
    exponents: np.ndarray, exact: Callable[[int], Fraction], bits: Bits, *, far: np.ndarray | None = None
) -> np.ndarray:
    """Toss coins that are true with probability exp(-exponent), exactly.

    A coin is true if a uniform number is below the probability. Its first 53 bits nearly always tell: if they do not,
    because the probability as floating point has it is too close, exact arithmetic decides with more bits.

    This takes the place of arXiv:2004.00010's algorithm 1, which makes such a coin of others with rational
    probabilities.

    Args:
        exponents: (n,) float64, at least 0.
        exact: returns the true exponent of the coin in a place.
        bits: as above.
        far: (n,) bool, where the exponent is too large to be trusted as floating point; None for nowhere.

    Returns:
        (n,) bool.
    """
    first = _words(len(exponents), bits) >> np.uint64(11)  # 53 bits
    uniform = first * WIDTH  # the lower end of the interval; exact
    probability = np.exp(-exponents)
    result = uniform + WIDTH <= probability * (1 - ERROR)
    undecided = ~result & (uniform < probability * (1 + ERROR))
    if far is not None:
        undecided |= far
    for place in np.flatnonzero(undecided):
        result[place] = _is_below_exp(int(first[place]), exact(int(place)), bits)
    return result


def _is_below_exp(first: int, exponent: Fraction, bits: Bits) -> bool:
    """Tell whether a uniform number is below exp(-exponent), with as many bits of both as it takes.

    Args:
        first: the number's first 53 bits.
        exponent: at least 0.
        bits: of its further bits.
    """
    number, known = first, 53
    while True:
        low, high = _enclosed(exponent, digits=known // 3 + 20)
        if Fraction(number + 1, 2**known) <= low:
            return True
        if Fraction(number, 2**known) >= high:
            return False
        number, known = (number << 64) + int(_words(1, bits)[0]), known + 64


def _enclosed(exponent: Fraction, digits: int) -> tuple[Fraction, Fraction]:
    """Return two fractions that exp(-exponent) lies between, closer to each other the more digits are asked for."""

    def ends() -> Iterator[Fraction]:
        # Decimal's exp is correctly rounded, so that the true value is no further away than the next number.
        for rounding in (decimal.ROUND_CEILING, decimal.ROUND_FLOOR):
            context = decimal.Context(digits, rounding, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
            quotient = context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
            power = context.exp(quotient.copy_negate())
            yield Fraction(context.next_minus(power) if rounding == decimal.ROUND_CEILING else context.next_plus(power))

    low, high = ends()
    return max(low, Fraction(0)), high


def _words(count: int, bits: Bits) -> np.ndarray:
    words = bits(count)
    assert words.dtype == np.uint64
    return words
