"""Epsilon against what is published, a second accountant, integrals and laws; and the bounds of audits."""

import bisect
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting import DpEvent, get_epsilon_gaussian
from hypothesis import given
from hypothesis import strategies as st
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from scipy import integrate, stats

from fedpipe.privacy import accountant
from fedpipe.privacy.accountant import (
    calibrated,
    epsilon,
    epsilon_pld,
    epsilon_rdp,
    gaussian_rounds,
    tree_rounds,
)
from fedpipe.privacy.audit import epsilon_lower_bound, guessed, p_value
from fedpipe.system.randomness import generator

# McMahan et al. 2018, arXiv:1710.06963, table 1: clients K, cohort, noise multiplier; epsilon at delta = K^-1.1 after
# 10^0, 10^1, ..., 10^6 rounds, by the moments accountant.
PUBLISHED = [
    (10**5, 10**2, 1.0, (0.97, 0.98, 1.00, 1.07, 1.18, 2.21, 7.50)),
    (10**6, 10**1, 1.0, (0.68, 0.69, 0.69, 0.69, 0.69, 0.72, 0.73)),
    (10**6, 10**3, 1.0, (1.17, 1.17, 1.20, 1.28, 1.39, 2.44, 8.13)),
    (10**6, 10**4, 1.0, (1.73, 1.92, 2.08, 3.06, 8.49, 32.38, 187.01)),
    (10**6, 10**3, 3.0, (0.47, 0.47, 0.48, 0.48, 0.49, 0.67, 1.95)),
    (10**9, 10**3, 1.0, (0.84, 0.84, 0.84, 0.85, 0.88, 0.88, 0.88)),
]
GRID = [*itertools.product((0.001, 0.01, 0.1), (0.6, 1.0, 3.0), (1, 30, 300))]  # q, z, rounds


def pld(event: DpEvent, delta: float) -> float:
    found = epsilon_pld(event, delta)
    assert found is not None
    return found


def by_moments(event: DpEvent, delta: float) -> float:
    """Epsilon as the moments accountant has it: of whole orders up to 33, each loss above epsilon counted alike.

    Abadi et al. 2016, arXiv:1607.00133, theorem 2.
    """
    orders = accountant._orders()
    taken = (orders == np.round(orders)) & (orders >= 2) & (orders <= 33)
    return float(np.min(accountant._rdp(event)[taken] + math.log(1 / delta) / (orders[taken] - 1)))


@pytest.mark.parametrize(("clients", "cohort", "noise", "published"), PUBLISHED)
def test_epsilon_of_user_level_privacy_is_the_published_one(
    clients: int, cohort: int, noise: float, published: tuple[float, ...]
):
    """To both decimals by the accountant of the paper; no larger by later ones."""
    delta = clients**-1.1
    events = [gaussian_rounds(cohort / clients, noise, 10**power) for power in range(7)]
    assert [round(by_moments(event, delta), 2) for event in events] == [*published]
    assert all(epsilon_rdp(event, delta) <= by_moments(event, delta) for event in events)
    assert all(pld(event, delta) <= by_moments(event, delta) for event in events[:4])


def test_epsilon_of_the_first_private_deep_learning_is_the_published_one():
    """1.26 for q = 0.01, σ = 4, δ = 1e-5 and 10,000 steps: Abadi et al. 2016, arXiv:1607.00133, section 3."""
    event = gaussian_rounds(0.01, 4.0, 10_000)
    assert by_moments(event, 1e-5) == pytest.approx(1.26, abs=0.005)
    assert epsilon(event, 1e-5) < 1.26


@pytest.mark.parametrize(("q", "z", "rounds"), [case for case in GRID if case != (0.1, 0.6, 300)])
def test_epsilon_is_where_a_second_accountant_has_it(q: float, z: float, rounds: int):
    """Gopi, Lee & Wutschitz 2021, arXiv:2106.02848: bounds on both sides, by code of other people."""
    second = PRVAccountant(
        prvs=PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=z),
        max_self_compositions=rounds,  # pyright: ignore[reportArgumentType] - of one mechanism it is a number
        eps_error=0.02, delta_error=1e-8,
    )  # fmt: skip
    below, _, above = second.compute_epsilon(delta=1e-5, num_self_compositions=[rounds])
    assert below <= pld(gaussian_rounds(q, z, rounds), 1e-5) <= above


@pytest.mark.parametrize(("q", "z", "rounds"), GRID)
def test_privacy_loss_distributions_give_no_larger_epsilons_than_renyi_divergences(q: float, z: float, rounds: int):
    event = gaussian_rounds(q, z, rounds)
    assert 0 < pld(event, 1e-5) < epsilon_rdp(event, 1e-5)
    assert epsilon(event, 1e-5) == pld(event, 1e-5)


def test_an_epsilon_at_a_delta_too_small_for_loss_distributions_is_that_of_renyi_divergences():
    event = gaussian_rounds(0.01, 1.0, 1000)
    assert pld(event, 1e-15) == math.inf
    assert epsilon(event, 1e-15) == epsilon_rdp(event, 1e-15) < math.inf


@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.1, 2.0), (0.3, 0.8)])
@pytest.mark.parametrize("order", [1.5, 2, 3.7, 8, 20])
def test_renyi_divergences_are_the_integrals(q: float, z: float, order: float):
    """Of a round with a client against one without it, and the other way round: the larger counts.

    Between whole orders, dp-accounting gives something above.
    """

    def divergence(one: Callable[[float], float], other: Callable[[float], float]) -> float:
        value, _ = integrate.quad(
            lambda x: math.exp(order * one(x) + (1 - order) * other(x)), -40 * z, 40 * z + order, limit=500,
            points=[0, 1, order],
        )  # fmt: skip
        return math.log(value) / (order - 1)

    def without(x: float) -> float:
        return float(stats.norm.logpdf(x, 0, z))

    def with_it(x: float) -> float:
        return float(np.logaddexp(math.log1p(-q) + without(x), math.log(q) + stats.norm.logpdf(x, 1, z)))

    place = int(np.flatnonzero(np.isclose(accountant._orders(), order))[0])
    expected = max(divergence(with_it, without), divergence(without, with_it))
    found = accountant._rdp(gaussian_rounds(q, z, 1))[place]
    assert found == pytest.approx(expected, rel=1e-6) or (order % 1 and found > expected)
    assert accountant._rdp(gaussian_rounds(q, z, 7))[place] == 7 * found


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (4.0, 10), (30.0, 500)])
def test_rounds_of_all_clients_cost_what_one_gaussian_does(z: float, rounds: int):
    """Whose epsilon has a closed form: Balle & Wang 2018, arXiv:1805.06530, theorem 8."""
    exact = get_epsilon_gaussian(z / math.sqrt(rounds), 1e-5)
    assert exact * (1 - 1e-9) <= pld(gaussian_rounds(1.0, z, rounds), 1e-5) <= exact * 1.002


@pytest.mark.parametrize("price", [epsilon_rdp, pld])
def test_epsilon_grows_with_rounds_and_with_sampling_and_falls_with_noise(price: Callable[[DpEvent, float], float]):
    for q, z in itertools.product((0.001, 0.01, 0.1), (0.6, 1.0, 3.0)):
        for delta in (1e-7, 1e-3):
            here = price(gaussian_rounds(q, z, 20), delta)
            assert here <= price(gaussian_rounds(q, z, 21), delta)
            assert here <= price(gaussian_rounds(1.1 * q, z, 20), delta)
            assert here >= price(gaussian_rounds(q, 1.1 * z, 20), delta)
            assert here >= price(gaussian_rounds(q, z, 20), 1.1 * delta)


def test_no_rounds_cost_nothing():
    for event in (gaussian_rounds(0.1, 1.0, 0), tree_rounds(1.0, 10, 0)):
        assert epsilon_rdp(event, 1e-5) == 0
        assert epsilon_pld(event, 1e-5) in (0, None)


@pytest.mark.parametrize("rounds", [2, 3, 7, 12, 64, 100])
def test_an_epsilon_is_the_same_whatever_was_asked_before(rounds: int):
    event = gaussian_rounds(0.02, 1.0, rounds)
    asked_in_order = [pld(gaussian_rounds(0.02, 1.0, earlier), 1e-5) for earlier in range(1, rounds + 1)][-1]
    accountant._pld.cache_clear()
    accountant._epsilon_pld.cache_clear()
    assert pld(event, 1e-5) == asked_in_order


@given(st.integers(1, 40), st.integers(1, 100), st.floats(0.5, 20))
def test_a_tree_costs_as_many_gaussians_as_a_client_is_in_nodes(rounds_per_epoch: int, rounds: int, z: float):
    """Node (level, i) is the sum of leaves i 2^level to (i + 1) 2^level - 1, and is there once all of them are."""

    def nodes_of(leaf: int, leaves: int) -> int:
        return sum((leaf // 2**level + 1) * 2**level <= leaves for level in range(leaves.bit_length()))

    epochs, more = divmod(rounds, rounds_per_epoch)
    nodes = epochs * max(nodes_of(leaf, rounds_per_epoch) for leaf in range(rounds_per_epoch))
    nodes += max((nodes_of(leaf, more) for leaf in range(more)), default=0)
    expected = epsilon_rdp(gaussian_rounds(1.0, z / math.sqrt(nodes), 1), 1e-5)
    event = tree_rounds(z, rounds_per_epoch, rounds)
    assert epsilon_rdp(event, 1e-5) == pytest.approx(expected, rel=1e-9)
    assert epsilon_pld(event, 1e-5) is None
    assert epsilon(event, 1e-5) == epsilon_rdp(event, 1e-5)


@pytest.mark.parametrize("event_of", [
    lambda z: gaussian_rounds(0.05, z, 100), lambda z: gaussian_rounds(1.0, z, 10), lambda z: tree_rounds(z, 10, 35),
])  # fmt: skip
@pytest.mark.parametrize("target", [0.1, 1.0, 8.0])
def test_a_calibrated_noise_multiplier_keeps_the_target_and_wastes_nothing(
    event_of: Callable[[float], DpEvent], target: float
):
    found = calibrated(event_of, target, 1e-5)
    assert epsilon(event_of(found), 1e-5) <= target
    assert epsilon(event_of(found * 0.998), 1e-5) > target
    assert found == float(f"{found:.4g}")


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(ValueError, match=r"^no noise multiplier up to 1\.04858e\+06 has epsilon 1e-09$"):
        calibrated(lambda z: tree_rounds(z, 10, 10), 1e-9, 1e-12)


@pytest.mark.parametrize("z", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("q", [1.0, 0.1])
def test_noise_on_a_grid_that_is_a_unit_larger_costs_no_more_than_the_gaussian(z: float, q: float):
    """For a grid of 64 units a client, far coarser than any in use: delta at some epsilons."""
    units, sigma = 64, int(64 * z)
    x = np.arange(-40 * sigma, 40 * sigma + units + 1)
    without = np.exp(-(x**2) / (2 * (sigma + 1) ** 2))
    shifted = np.exp(-((x - units) ** 2) / (2 * (sigma + 1) ** 2))
    without, shifted = without / without.sum(), shifted / shifted.sum()
    with_it = (1 - q) * without + q * shifted

    def gaussian(e: float, one: str) -> float:
        fine = np.linspace(-40 * z, 40 * z + 1, 200_001)
        p, r = stats.norm.pdf(fine, 0, z), stats.norm.pdf(fine, 1, z)
        mixed = (1 - q) * p + q * r
        parts = mixed - math.exp(e) * p if one == "more" else p - math.exp(e) * mixed
        return float(np.maximum(parts, 0).sum() * (fine[1] - fine[0]))

    for e in (0.0, 0.3, 1.0, 3.0):
        assert np.maximum(with_it - math.exp(e) * without, 0).sum() <= gaussian(e, "more") * (1 + 1e-6) + 1e-15
        assert np.maximum(without - math.exp(e) * with_it, 0).sum() <= gaussian(e, "less") * (1 + 1e-6) + 1e-15


# Audits


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("true_epsilon", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("guesses", "leak"), [(40, 0.0), (200, 0.0), (200, 1e-3)])
def test_an_audit_is_above_the_true_epsilon_no_oftener_than_it_says(
    true_epsilon: float, confidence: float, guesses: int, leak: float
):
    """Of randomised response, which is right with probability e^ε / (1 + e^ε): the chance is a sum of its outcomes.

    With a chance of δ a coin leaks as it is, which is all that (ε, δ) permits.
    """
    right = leak + (1 - leak) * math.exp(true_epsilon) / (1 + math.exp(true_epsilon))

    def exceeds(correct: int) -> bool:  # from some number of right guesses on, as the next test says
        return epsilon_lower_bound(guesses, guesses, correct, leak, confidence) > true_epsilon

    first = bisect.bisect_left(range(guesses + 1), True, key=exceeds)
    assert stats.binom.sf(first - 1, guesses, right) <= 1 - confidence + 1e-9


@given(st.integers(1, 300), st.data(), st.sampled_from([0.0, 1e-5, 1e-2]))
def test_more_right_guesses_prove_more(guesses: int, data: st.DataObject, delta: float):
    correct = data.draw(st.integers(1, guesses))
    bound = epsilon_lower_bound(guesses, guesses, correct, delta)
    assert bound >= epsilon_lower_bound(guesses, guesses, correct - 1, delta)
    assert bound <= epsilon_lower_bound(guesses, guesses, correct, 0.0)
    if correct <= guesses / 2:
        assert bound == 0


def test_many_canaries_prove_nearly_the_true_epsilon():
    right = int(100_000 * math.e / (1 + math.e))
    assert 0.97 < epsilon_lower_bound(100_000, 100_000, right, 0.0) < 1
    assert 0.97 < epsilon_lower_bound(100_000, 100_000, right, 1e-7) < 1


def test_a_bound_is_where_the_p_value_is_one_minus_the_confidence():
    for delta in (0.0, 1e-4):
        bound = epsilon_lower_bound(500, 300, 250, delta, 0.99)
        assert p_value(500, 300, 250, bound, delta) == pytest.approx(0.01, rel=1e-3)


@given(st.integers(1, 30), st.data(), st.floats(0, 5), st.floats(0, 0.1))
def test_the_p_value_is_the_theorems(guesses: int, data: st.DataObject, e: float, delta: float):
    """β + 2 m δ α of arXiv:2305.08846, theorem 5.2, in terms of single probabilities."""
    correct, more = data.draw(st.integers(0, guesses)), data.draw(st.integers(0, 10))
    q = math.exp(e) / (1 + math.exp(e))
    chances = [math.comb(guesses, w) * q**w * (1 - q) ** (guesses - w) for w in range(guesses + 1)]
    beta = sum(chances[correct:])
    alpha = max((sum(chances[correct - i : correct]) / i for i in range(1, correct + 1)), default=0)
    found = p_value(guesses + more, guesses, correct, e, delta)
    assert found == pytest.approx(min(1, beta + 2 * (guesses + more) * delta * alpha), abs=1e-9)


@pytest.mark.parametrize("numbers", [(5, 6, 1), (5, 5, 6), (5, 5, -1)])
def test_numbers_of_guesses_that_cannot_be_are_refused(numbers: tuple[int, int, int]):
    with pytest.raises(ValueError, match="each is at most the next"):
        p_value(*numbers, 1.0, 0.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(-0.1, 0.0), (1.0, 1.5), (1.0, -0.1)])
def test_guarantees_that_cannot_be_are_refused(epsilon: float, delta: float):
    with pytest.raises(ValueError, match=r"^epsilon = .*: at least 0, delta at most 1$"):
        p_value(5, 5, 5, epsilon, delta)


def test_guesses_are_of_the_highest_and_the_lowest_scores():
    scores = np.array([0.1, 5.0, -3.0, 0.2, 4.0, -0.5])
    included = np.array([True, True, False, False, False, False])
    assert guessed(scores, included, 2) == (2, 2)
    assert guessed(scores, included, 4) == (4, 3)
    assert guessed(scores, included, 5) == (4, 3)
    assert guessed(scores, included, 6) == (6, 3)
    assert guessed(scores, included, 0) == (0, 0)


def test_an_audit_of_the_gaussian_mechanism_stays_below_what_it_costs():
    """Scores are the coins plus noise: 2,000 canaries of one Gaussian each, epsilon 1 and 4."""
    included = generator(0, "coins").random(2000) < 0.5
    bounds = {}
    for target in (1.0, 4.0):
        z = calibrated(lambda z: gaussian_rounds(1.0, z, 1), target, 1e-5)
        scores = included + z * generator(0, "noise").normal(size=2000)
        guesses, correct = guessed(scores, included, 400)
        bounds[target] = epsilon_lower_bound(2000, guesses, correct, 1e-5)
        assert bounds[target] < target
    assert 0 <= bounds[1.0] < bounds[4.0]
    assert bounds[4.0] > 1
