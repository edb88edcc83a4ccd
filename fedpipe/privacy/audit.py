"""What an attack proves: if it guesses too well who took part, epsilon cannot be as small as was claimed.

Of m canaries, clients made up by the auditor, a fair coin each decides which take part. The auditor sees what was
released and guesses r of the coins, v of them rightly. Whatever is (ε, δ)-differentially private makes many right
guesses improbable, so that many right guesses disprove every ε up to a bound. One training suffices.

References:
    Steinke, Nasr & Jagielski 2023, "Privacy auditing with one (1) training run", arXiv:2305.08846.
"""

import math

import numpy as np
from scipy.special import bdtr, bdtrc

LARGEST_EPSILON = 100.0  # more than any number of guesses that fits a computer's memory can disprove


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Return an epsilon that the true one is no smaller than, but for a chance of 1 - confidence; 0 if nothing follows.

    The number of guesses must not be chosen by how well they do.

    Args:
        canaries: m, whose coins are fair and independent.
        guesses: r, at most m.
        correct: v, at most r.
        delta: of the guarantee that is tried.
        confidence: fraction.

    Raises:
        ValueError: the numbers are out of range.

    References:
        arXiv:2305.08846, section 6: the largest ε that theorem 5.2 rejects.
    """
    low, high = 0.0, LARGEST_EPSILON
    if p_value(canaries, guesses, correct, low, delta) > 1 - confidence:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return what the chance of so many right guesses is at most, if the release is (epsilon, delta)-private.

    With W the number of right guesses of r that are right with probability q = e^ε / (1 + e^ε) each, it is
    P[W >= v] + 2 m δ max_i P[v > W >= v - i] / i over i = 1, 2, ..., v.

    Args:
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.
        epsilon: at least 0.
        delta: 0 to 1.

    Raises:
        ValueError: the numbers are out of range.

    References:
        arXiv:2305.08846, theorem 5.2.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} right of {guesses} guesses for {canaries} canaries: each is at most the next")
    if epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"epsilon = {epsilon:g}, delta = {delta:g}: at least 0, delta at most 1")
    if not correct:
        return 1.0
    q, v = 1 / (1 + math.exp(-epsilon)), correct
    at_most = bdtr(np.arange(v), guesses, q)  # P[W <= 0], P[W <= 1], ..., P[W < v]
    lower = np.append(at_most[-2::-1], 0.0)  # P[W < v - i] of i = 1, 2, ..., v
    alpha = np.max((at_most[-1] - lower) / np.arange(1, v + 1)) if delta else 0.0
    return float(min(1.0, bdtrc(v - 1, guesses, q) + 2 * canaries * delta * alpha))


def guessed(scores: np.ndarray, included: np.ndarray, guesses: int) -> tuple[int, int]:
    """Guess that the canaries with the highest scores took part, and those with the lowest did not.

    Args:
        scores: (m,) float64; the higher, the more the release looks as if the canary took part.
        included: (m,) bool, which did.
        guesses: how many to guess, half of them each way; at most m. The others are left out.

    Returns:
        How many were guessed, and how many of them rightly.
    """
    half = guesses // 2
    order = np.argsort(scores, kind="stable")
    lowest, highest = order[:half], order[len(order) - half :]
    return 2 * half, int(np.sum(~included[lowest]) + np.sum(included[highest]))
