"""Laws of every partitioner, and each one's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.errors import UserError
from fedpipe.partition import PARTITIONERS, Partition
from fedpipe.randomness import generator

labels_and_clients = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 9), min_size=n, max_size=n).map(np.array), st.integers(1, n))
)
every = pytest.mark.parametrize("scheme", PARTITIONERS)


@every
@given(labels_and_clients, st.integers(0, 2**32))
def test_shards_are_disjoint_and_cover(scheme: str, drawn: tuple[np.ndarray, int], seed: int):
    labels, clients = drawn
    shards = PARTITIONERS[scheme]().assign(labels, clients, generator(seed, "partition"))
    assert len(shards) == clients
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(labels)))


@every
@given(labels_and_clients, st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_shards(scheme: str, drawn: tuple[np.ndarray, int], seed: int):
    labels, clients = drawn
    one, other = (PARTITIONERS[scheme]().assign(labels, clients, generator(seed, "partition")) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every
def test_another_seed_gives_other_shards(scheme: str):
    labels = np.arange(1000) % 10
    one, other = (PARTITIONERS[scheme]().assign(labels, 4, generator(seed, "partition")) for seed in (1, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(labels_and_clients)
def test_iid_sizes_are_at_most_one_apart(drawn: tuple[np.ndarray, int]):
    labels, clients = drawn
    sizes = [len(shard) for shard in PARTITIONERS["iid"]().assign(labels, clients, generator(0, "partition"))]
    assert max(sizes) - min(sizes) <= 1


def test_iid_clients_have_the_label_frequencies_of_the_whole():
    """Chi-square of 10,000 examples' labels over 10 clients: 81 degrees of freedom, 99.99 % quantile 135."""
    labels = np.repeat(np.arange(10), 1000)
    shards = PARTITIONERS["iid"]().assign(labels, 10, generator(7, "partition"))
    counts = np.array([np.bincount(labels[shard], minlength=10) for shard in shards])
    assert ((counts - 100) ** 2 / 100).sum() < 135
    assert counts.std() > 1  # shuffled, not dealt out label by label


# More clients than examples


@every
@given(labels_and_clients, st.integers(1, 20), st.integers(0, 2**32))
def test_with_replacement_any_number_of_clients_share_the_examples(
    scheme: str, drawn: tuple[np.ndarray, int], examples: int, seed: int
):
    labels, clients = drawn
    shards = Partition(clients=clients + 50, examples_per_client=examples, scheme=scheme).assign(labels, seed)
    assert len(shards) == clients + 50
    indices = np.concatenate(shards)
    assert len(indices) == (clients + 50) * examples
    assert indices.min() >= 0
    assert indices.max() < len(labels)
    assert all((np.diff(shard) >= 0).all() for shard in shards)


def test_with_replacement_every_example_is_as_likely_as_the_other():
    """100,000 draws from 50 examples: each is expected 2,000 times, standard deviation 44."""
    shards = Partition(clients=1000, examples_per_client=100).assign(np.arange(50) % 10, 3)
    assert {len(shard) for shard in shards} == {100}
    assert abs(np.bincount(np.concatenate(shards), minlength=50) - 2000).max() < 5 * 44


def test_more_clients_than_examples_are_refused_without_replacement():
    with pytest.raises(UserError, match=r"^params\.yaml: partition\.clients: 11 exceeds the 10 training examples; "):
        Partition(clients=11).assign(np.arange(10), 0)
