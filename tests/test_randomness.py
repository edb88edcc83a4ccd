"""Randomness is addressed, not consumed: equal addresses give equal draws, different ones different draws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.system.randomness import generator

addresses = st.tuples(
    st.integers(0, 2**40),
    st.sampled_from(["cohort", "batches", "partition"]),
    st.integers(0, 999),
    st.integers(0, 99_999),
)


def draw(address: tuple[int, str, int, int]) -> list[int]:
    seed, purpose, round, client = address
    return generator(seed, purpose, round=round, client=client).integers(2**62, size=4).tolist()


@given(addresses)
def test_an_address_always_gives_the_same_draws(address: tuple[int, str, int, int]):
    assert draw(address) == draw(address)


@given(addresses, addresses)
def test_different_addresses_give_different_draws(one: tuple[int, str, int, int], other: tuple[int, str, int, int]):
    assert (draw(one) == draw(other)) == (one == other)


def test_the_streams_are_those_of_released_versions():
    """A change of the streams would silently change everybody's results."""
    assert generator(42, "cohort", round=1).integers(1000, size=3).tolist() == [947, 341, 980]
    assert isinstance(generator(42, "cohort").bit_generator, np.random.PCG64)
