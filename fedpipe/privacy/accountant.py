"""What was released, as events, and what the events cost: epsilon at a delta.

Everything here speaks of clients: neighbours are two federations of which one lacks all of one client's examples, so
that it contributes nothing. How many clients there are is public, and the same in both.

The noise of this library is the discrete Gaussian on a grid (see `fedpipe.privacy.noise`), and is accounted as the
Gaussian. That is an upper bound if its standard deviation is a grid unit larger than the accounted σ, and σ is at least
2**20 units. For take a whole vector plus Gaussian noise of standard deviation σ, and from each coordinate y draw a
whole number from the discrete Gaussian around y with variance τ² = (σ + 1)² - σ² > 2**21. This works on what the
Gaussian mechanism releases, so it costs nothing; and what it draws is the vector plus discrete Gaussian noise of
standard deviation σ + 1, but for factors of at most 1 ± 3 exp(-2π² τ²), which no floating-point number tells from 1.
This holds for whatever is composed of such releases, also with sampling.

References:
    Canonne, Kamath & Steinke 2020, arXiv:2004.00010; Kairouz et al. 2021, arXiv:2102.06387: the discrete Gaussian.
    Peikert 2010, "An efficient and parallel Gaussian sampler for lattices", theorem 3.1: why the two steps add up.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache

import numpy as np
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    SingleEpochTreeAggregationDpEvent,
)
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from dp_accounting.rdp import RdpAccountant, compute_epsilon

LARGEST_MULTIPLIER = 2.0**20  # with which nothing is left of the clients' updates


def gaussian_rounds(sampling_probability: float, noise_multiplier: float, rounds: int) -> DpEvent:
    """Return what so many rounds release: sums with Gaussian noise over clients that are drawn independently.

    Args:
        sampling_probability: of each client in each round.
        noise_multiplier: the noise's standard deviation over the largest norm of a client's contribution to the sum.
        rounds: 0, 1, ...

    References:
        McMahan et al. 2018, arXiv:1710.06963.
    """
    round = PoissonSampledDpEvent(sampling_probability, GaussianDpEvent(noise_multiplier))
    return SelfComposedDpEvent(round, rounds) if rounds else NoOpDpEvent()


def tree_rounds(noise_multiplier: float, rounds_per_epoch: int, rounds: int) -> DpEvent:
    """Return what so many rounds release whose running sums have the noise of a tree: DP-FTRL.

    A client takes part in at most one round of an epoch, and each epoch has a tree of its own.

    Args:
        noise_multiplier: the standard deviation of a node's noise over the largest norm of a client's contribution.
        rounds_per_epoch: how many leaves a tree has.
        rounds: 0, 1, ...; the last tree may be unfinished.

    References:
        Kairouz et al. 2021, arXiv:2103.00039, appendix D.
    """
    epochs, more = divmod(rounds, rounds_per_epoch)
    trees: list[DpEvent] = []
    if epochs:
        whole = SingleEpochTreeAggregationDpEvent(noise_multiplier, rounds_per_epoch)
        trees.append(SelfComposedDpEvent(whole, epochs))
    if more:
        trees.append(SingleEpochTreeAggregationDpEvent(noise_multiplier, more))
    return ComposedDpEvent(trees)


def epsilon_rdp(event: DpEvent, delta: float) -> float:
    """Return an epsilon, at a delta, that Rényi differential privacy proves for an event.

    References:
        Mironov, Talwar & Zhang 2019, arXiv:1908.10530.
    """
    return float(compute_epsilon(_orders().tolist(), _rdp(event).tolist(), delta)[0])


def epsilon_pld(event: DpEvent, delta: float) -> float | None:
    """Return the epsilon, at a delta, that the event's privacy loss distribution gives; None if it has none here.

    It is an upper bound, at most about a thousandth above the smallest epsilon that holds. It is there for the rounds
    of `gaussian_rounds`.

    References:
        Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380.
    """
    match event:
        case NoOpDpEvent():
            return 0.0
        case SelfComposedDpEvent(PoissonSampledDpEvent(probability, GaussianDpEvent(multiplier)), rounds):
            return _epsilon_pld(probability, multiplier, rounds, delta)
    return None


def epsilon(event: DpEvent, delta: float) -> float:
    """Return the smaller of the two epsilons, at a delta, that an event has."""
    # The privacy loss distribution gives the smaller one, unless delta is so small that its arithmetic sees none.
    pld = epsilon_pld(event, delta)
    return epsilon_rdp(event, delta) if pld is None or math.isinf(pld) else pld


def calibrated(event_of: Callable[[float], DpEvent], target: float, delta: float, smallest: float = 0.05) -> float:
    """Return a noise multiplier with which an event costs at most the target, and hardly less.

    Args:
        event_of: returns the event for a noise multiplier; a larger one makes it cost less.
        target: epsilon.
        delta: likewise.
        smallest: that is considered. With the default, a single round costs hundreds.

    Returns:
        The smallest one that does, rounded up to 4 digits.

    Raises:
        ValueError: even 2**20 does not do.
    """

    def affordable(multiplier: float) -> bool:
        return epsilon(event_of(multiplier), delta) <= target

    if affordable(smallest):
        return smallest
    low, high = smallest, max(1.0, 2 * smallest)
    while not affordable(high):
        low, high = high, 2 * high
        if high > LARGEST_MULTIPLIER:
            raise ValueError(f"no noise multiplier up to {LARGEST_MULTIPLIER:g} has epsilon {target:g}")
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if affordable(middle) else (middle, high)
    # What rounding does to it can be seen in the fourth digit, which the loop raises.
    digit = 10.0 ** (math.floor(math.log10(high)) - 3)
    steps = math.ceil(high / digit)
    while not affordable(found := float(f"{steps * digit:.4g}")):
        steps += 1
    return found


def _rdp(event: DpEvent) -> np.ndarray:
    """Return the Rényi divergence of each of `_orders` that an event has at most."""
    match event:
        case SelfComposedDpEvent(inner, count):
            return count * _rdp(inner)
        case ComposedDpEvent(events):
            return sum((_rdp(inner) for inner in events), np.zeros(len(_orders())))
    return _rdp_of_one(event)


@lru_cache(maxsize=1024)
def _rdp_of_one(event: DpEvent) -> np.ndarray:
    # A tree's price is of a client that contributes nothing, in a round that is there all the same. For the others
    # this and a client that is not there are the same.
    tree = isinstance(event, SingleEpochTreeAggregationDpEvent)
    relation = NeighboringRelation.REPLACE_SPECIAL if tree else NeighboringRelation.ADD_OR_REMOVE_ONE
    with _quietly():
        return RdpAccountant(neighboring_relation=relation).compose(event).rdp


@cache
def _orders() -> np.ndarray:
    return RdpAccountant().orders


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself that an order's divergence was not found, so that the order is left out: bounds hold without."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@cache
def _epsilon_pld(probability: float, multiplier: float, rounds: int, delta: float) -> float:
    return float(_pld(probability, multiplier, rounds).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _pld(probability: float, multiplier: float, rounds: int) -> PrivacyLossDistribution:
    """Return the privacy loss of so many rounds: of two numbers of rounds whose losses are remembered, or soon will be.

    One composition leads from each number of rounds to the next, and twice log2(rounds) of them lead to any.
    """
    if rounds == 1:
        return from_gaussian_mechanism(
            multiplier,
            sampling_prob=probability,
            value_discretization_interval=_interval(probability, multiplier),
        )
    low_bit = rounds & -rounds
    first = rounds // 2 if rounds == low_bit else rounds - low_bit
    return _pld(probability, multiplier, first).compose(_pld(probability, multiplier, rounds - first))


def _interval(probability: float, multiplier: float) -> float:
    """Return how finely a round's privacy loss is divided.

    A tenth of the loss's standard deviation, q sqrt(exp(z^-2) - 1), adds about a thousandth to epsilon, whatever the
    number of rounds; 0.01 adds as little to large losses. If that makes more than 20,000 steps of the largest loss
    that counts, it is coarser.
    """
    deviation = probability * math.sqrt(math.expm1(min(multiplier**-2, 50.0)))
    largest = 10 / multiplier + 0.5 / multiplier**2
    if largest < 50:
        largest = math.log1p(probability * math.expm1(largest))
    return max(min(deviation / 10, 0.01), largest / 20_000)
