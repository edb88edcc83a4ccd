"""Compressions lose what their papers say they lose, and send as many bytes as their theory says."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fedpipe.federated.compression import COMPRESSIONS
from fedpipe.federated.compression.base import Compression, WithErrorFeedback
from fedpipe.federated.compression.codecs import DTYPES, deflate, inflate, packed, unpacked
from fedpipe.federated.compression.floats import BFloat16, Float16
from fedpipe.federated.compression.qsgd import Qsgd
from fedpipe.federated.compression.sign import Sign
from fedpipe.federated.compression.sparse import RandomK, TopK
from fedpipe.system.randomness import generator

BITS = range(1, 9)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(floats, min_size=1, max_size=70).map(lambda numbers: torch.tensor(numbers, dtype=torch.float32))
moderate = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=70).map(torch.tensor)
fractions = st.floats(0.01, 1)
compressions = st.one_of(
    st.builds(TopK, fraction=fractions),
    st.builds(RandomK, fraction=fractions, error_feedback=st.booleans()),
    st.builds(Qsgd, bits=st.integers(1, 8), bucket=st.integers(1, 80), norm=st.sampled_from(["max", "l2"])),
    st.sampled_from([Compression(), Sign(), Float16(), BFloat16()]),
)


def addressed(round: int = 1, client: int = 2) -> np.random.Generator:
    return generator(7, "compression", round=round, client=client)


def there_and_back(compression: Compression, vector: Tensor, round: int = 1) -> Tensor:
    """What the receiver makes of the tensors that are sent."""
    return compression.decode(compression.encode(vector, addressed(round)), len(vector), addressed(round))


def loss(vector: Tensor, other: Tensor) -> float:
    """‖x - y‖²."""
    return float(((vector.double() - other.double()) ** 2).sum())


def square(vector: Tensor) -> float:
    """‖x‖²."""
    return loss(vector, torch.zeros(len(vector)))


def some_vector(d: int, seed: int = 0) -> Tensor:
    """Numbers of very different sizes, zeros among them."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=d) * 10.0 ** rng.integers(-3, 2, size=d) * (rng.random(d) < 0.9)
    return torch.from_numpy(numbers.astype(np.float32))


# What all have in common


@given(compression=compressions, vector=vectors)
def test_what_arrives_is_a_vector_of_the_same_length_by_the_same_bits_again(compression: Compression, vector: Tensor):
    """However large its numbers are; those whose norm is no float32 any more do not arrive."""
    kept = vector.clone()
    once, again = (there_and_back(compression, vector) for _ in range(2))
    assert once.shape == vector.shape
    assert once.dtype == torch.float32
    assert torch.equal(once.view(torch.int32), again.view(torch.int32))
    assert torch.equal(vector, kept)
    if vector.abs().max() < 1e35:
        assert once.isfinite().all()


@given(compression=compressions, d=st.integers(1, 70))
def test_nothing_stays_nothing(compression: Compression, d: int):
    assert not there_and_back(compression, torch.zeros(d)).any()


@given(compression=compressions, vector=moderate)
def test_tensors_have_the_names_and_types_that_entropy_coding_knows(compression: Compression, vector: Tensor):
    tensors = compression.encode(vector, addressed())
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: DTYPES[name] for name in tensors}
    assert all(tensor.ndim == 1 for tensor in tensors.values())


@given(compression=compressions, vector=moderate)
def test_entropy_coding_loses_nothing(compression: Compression, vector: Tensor):
    tensors = compression.encode(vector, addressed())
    back = inflate(deflate(tensors))
    assert tensors.keys() == back.keys()
    assert all(tensors[name].dtype == back[name].dtype for name in tensors)
    assert all(torch.equal(tensors[name], back[name]) for name in tensors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@given(compression=compressions, vector=moderate, data=st.data())
def test_a_number_that_is_not_finite_shows_where_it_arrives(
    compression: Compression, vector: Tensor, data: st.DataObject, bad: float
):
    """So that the aggregation still refuses such an update; whichever number it is, and however few are sent."""
    broken = vector.clone()
    broken[data.draw(st.integers(0, len(vector) - 1))] = bad
    assert not there_and_back(compression, broken).isfinite().all()


def test_each_round_and_client_draws_its_own():
    vector = some_vector(300)
    for compression in (Qsgd(), RandomK(fraction=0.1)):
        sent = [
            compression.decode(compression.encode(vector, addressed(*address)), 300, addressed(*address))
            for address in itertools.product((1, 2), (0, 1))
        ]
        assert not any(torch.equal(one, other) for one, other in itertools.combinations(sent, 2))


# Bytes


@pytest.mark.parametrize("d", [1, 7, 8, 1000, 7850])
@pytest.mark.parametrize(
    ("compression", "theory"),
    [
        (Compression(), lambda d: 4 * d),
        (TopK(fraction=0.01), lambda d: 8 * math.ceil(d / 100)),
        (TopK(fraction=0.07), lambda d: 8 * math.ceil(7 * d / 100)),
        (RandomK(fraction=0.01), lambda d: 4 * math.ceil(d / 100)),
        *((Qsgd(bits=b, bucket=100), lambda d, b=b: math.ceil(b * d / 8) + 4 * math.ceil(d / 100)) for b in BITS),
        (Sign(), lambda d: math.ceil(d / 8) + 4),
        (Float16(), lambda d: 2 * d),
        (BFloat16(), lambda d: 2 * d),
    ],
    ids=repr,
)
def test_the_tensors_take_as_many_bytes_as_theory_says(compression: Compression, theory: Callable[[int], int], d: int):
    tensors = compression.encode(some_vector(d), addressed())
    assert sum(tensor.nbytes for tensor in tensors.values()) == theory(d)


def test_entropy_coding_shortens_indices_to_little_more_than_their_entropy():
    """Of k among d places, which are log2(d choose k) bits."""
    d, k = 200_000, 2_000
    tensors = TopK(fraction=k / d).encode(
        torch.from_numpy(np.random.default_rng(0).normal(size=d)).float(), addressed()
    )
    entropy = (math.lgamma(d + 1) - math.lgamma(k + 1) - math.lgamma(d - k + 1)) / math.log(2) / 8
    length = len(deflate(tensors)["indices"])
    assert entropy < length < 1.3 * entropy


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
def test_packed_numbers_are_the_bits_one_after_the_other(bits: int, data: st.DataObject):
    """As Python's whole numbers have them."""
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    whole = sum(number << (place * bits) for place, number in enumerate(numbers))
    found = packed(np.array(numbers, dtype=np.uint8), bits)
    assert found.tobytes() == whole.to_bytes(-(-bits * len(numbers) // 8), "little")
    assert unpacked(found, bits, len(numbers)).tolist() == numbers


# Sparse ones


@given(vector=vectors, fraction=fractions)
@example(vector=torch.tensor([2.0, -2.0, 1.0, 2.0, 0.0]), fraction=0.4)
@example(vector=torch.tensor([0.0, -0.0, 0.0]), fraction=0.5)
def test_top_k_keeps_the_largest_and_of_equal_ones_the_first(vector: Tensor, fraction: float):
    compression = TopK(fraction=fraction)
    tensors = compression.encode(vector, addressed())
    order = np.argsort(-np.abs(vector.numpy()), kind="stable")
    expected = sorted(order[: compression.kept(len(vector))])
    assert tensors["indices"].tolist() == expected
    assert torch.equal(tensors["values"], vector[expected])
    arrived = there_and_back(compression, vector)
    others = np.setdiff1d(np.arange(len(vector)), expected)
    assert torch.equal(arrived[expected], vector[expected])
    assert not arrived[others].any()


def test_no_other_k_numbers_approximate_a_vector_better_than_top_k():
    for seed in range(20):
        vector = some_vector(9, seed)
        found = loss(vector, there_and_back(TopK(fraction=1 / 3), vector))
        least = min(square(vector[list(left)]) for left in itertools.combinations(range(9), 6))
        assert found == pytest.approx(least, rel=1e-12)


@given(vector=moderate, fraction=fractions)
def test_top_k_is_a_contraction(vector: Tensor, fraction: float):
    """‖C(x) - x‖² ≤ (1 - k/d) ‖x‖²: Stich et al. 2018, lemma A.1."""
    compression = TopK(fraction=fraction)
    part = compression.kept(len(vector)) / len(vector)
    assert loss(vector, there_and_back(compression, vector)) <= (1 - part) * square(vector) * (1 + 1e-12)


@pytest.mark.parametrize(("fraction", "d", "k"), [(0.01, 1, 1), (0.07, 100, 7), (0.1, 30, 3), (1.0, 5, 5)])
def test_a_fraction_is_rounded_up_and_no_further(fraction: float, d: int, k: int):
    assert TopK(fraction=fraction).kept(d) == k


def test_random_k_loses_what_the_others_are_on_average():
    """E ‖C(x) - x‖² = (1 - k/d) ‖x‖², without scaling; with it, E C(x) = x."""
    vector, draws = some_vector(20), 2000
    lost, mean = [], torch.zeros(20, dtype=torch.float64)
    for round in range(draws):
        lost.append(loss(vector, there_and_back(RandomK(fraction=0.25), vector, round)))
        mean += there_and_back(RandomK(fraction=0.25, error_feedback=False), vector, round) / draws
    assert abs(np.mean(lost) - 0.75 * square(vector)) < 5 * np.std(lost) / math.sqrt(draws)
    deviation = vector.abs() * math.sqrt(3 / draws)  # of 4 x with probability 1/4 and 0 else
    assert ((mean - vector).abs() <= 5 * deviation).all()


def test_every_set_of_places_is_equally_likely():
    sets = dict.fromkeys(itertools.combinations(range(6), 3), 0)
    vector = torch.arange(1.0, 7.0)
    for round in range(1000):
        places = there_and_back(RandomK(fraction=0.5), vector, round).nonzero().reshape(-1)
        sets[tuple(places.tolist())] += 1
    assert stats.chisquare([*sets.values()]).pvalue > 1e-4


# QSGD


def levels_of(bits: int) -> np.ndarray:
    """The levels of a bucket whose norm is 1, by the definition."""
    s = 2 ** (bits - 1) - 1
    return np.array([-1.0, 1.0]) if bits == 1 else np.arange(-s, s + 1) / s


def norm_of(bucket: np.ndarray, norm: str) -> float:
    return float(np.abs(bucket).max() if norm == "max" else np.linalg.norm(bucket))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("norm", ["max", "l2"])
def test_qsgd_is_unbiased_with_the_variance_of_its_rounding(bits: int, norm: Any):
    """Thousands of buckets of the same numbers: each has a draw of its own."""
    bucket, draws = some_vector(16), 20_000
    compression = Qsgd(bits=bits, bucket=16, norm=norm)
    found = there_and_back(compression, bucket.repeat(draws)).view(draws, 16).double()

    x = bucket.double().numpy()
    n, levels = norm_of(x, norm), levels_of(bits)
    above = np.clip(np.searchsorted(levels, x / n), 1, len(levels) - 1)
    low, high = n * levels[above - 1], n * levels[above]
    variances = np.maximum((x - low) * (high - x), 0)  # of the only unbiased choice between two neighbours
    error = np.abs(found.mean(0).numpy() - x)
    assert (error <= 5 * np.sqrt(variances / draws) + 1e-6 * n).all()

    total = variances.sum()
    lost = ((found.numpy() - x) ** 2).sum(axis=1)
    assert abs(lost.mean() - total) <= 5 * lost.std() / math.sqrt(draws) + 1e-6 * total
    if bits == 1:
        assert total == pytest.approx(16 * n**2 - (x**2).sum())
    else:
        s = 2 ** (bits - 1) - 1
        assert total <= min(16 / s**2, 4 / s) * (x**2).sum()  # lemma 3.1


@given(vector=moderate, bits=st.integers(1, 8), bucket=st.integers(1, 80), norm=st.sampled_from(["max", "l2"]))
def test_qsgd_rounds_to_a_level_next_to_the_number(vector: Tensor, bits: int, bucket: int, norm: Any):
    found = there_and_back(Qsgd(bits=bits, bucket=bucket, norm=norm), vector).double().numpy()
    for start in range(0, len(vector), bucket):
        x, y = vector[start : start + bucket].double().numpy(), found[start : start + bucket]
        levels = levels_of(bits) * np.float32(norm_of(x, norm))
        step, tolerance = levels[1] - levels[0], 1e-6 * np.abs(levels).max()
        assert (np.abs(x - y) <= step + tolerance).all()
        assert (np.abs(y[:, None] - levels).min(axis=1) <= tolerance).all()
        assert bits == 1 or not y[x == 0].any()


def test_with_the_largest_absolute_value_for_a_norm_no_number_loses_its_largest():
    vector = some_vector(512)
    place = int(vector.abs().argmax())
    assert there_and_back(Qsgd(bits=2, norm="max"), vector)[place] == vector[place]


# Sign and floats


@given(vector=moderate)
def test_sign_loses_what_its_paper_says(vector: Tensor):
    """‖C(x) - x‖² = (1 - φ(x)) ‖x‖² with the density φ(x) = ‖x‖₁² / (d ‖x‖²): Karimireddy et al. 2019, lemma 8."""
    arrived = there_and_back(Sign(), vector)
    x = vector.double().numpy()
    scale = np.abs(x).mean()
    np.testing.assert_allclose(arrived, np.where(x >= 0, scale, -scale), rtol=1e-6)
    expected = (x**2).sum() - np.abs(x).sum() ** 2 / len(x)
    assert loss(vector, arrived) == pytest.approx(expected, rel=1e-5, abs=1e-5 * max((x**2).sum(), 1e-30))


@given(vector=vectors)
def test_float16_is_numpys_rounding_but_for_infinity(vector: Tensor):
    clipped = np.clip(vector.numpy(), -65504, 65504)
    assert there_and_back(Float16(), vector).tolist() == clipped.astype(np.float16).astype(np.float32).tolist()


@given(vector=vectors)
@example(vector=torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]))
def test_bfloat16_is_the_nearest_of_its_numbers(vector: Tensor):
    """The upper half of a float32; of two that are equally near, the even one; never infinity."""
    for x, y in zip(vector.tolist(), there_and_back(BFloat16(), vector).tolist(), strict=True):
        bits = np.float32(abs(x)).view(np.uint32).item()
        below = bits & 0xFFFF0000
        above = below + 0x10000
        neighbours = [float(np.uint32(half).view(np.float32)) for half in (below, above) if half < 0x7F800000]
        even = [half >> 16 & 1 == 0 for half in (below, above)]
        nearest = min(zip(neighbours, even, strict=False), key=lambda pair: (abs(pair[0] - abs(x)), not pair[1]))[0]
        assert abs(y) == nearest
        assert not y or math.copysign(1, y) == math.copysign(1, x)
