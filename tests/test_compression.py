"""Compressions lose what their papers say they lose, and send as many bytes as their theory says."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from fedpipe.engines import Compute
from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.compression import COMPRESSIONS, COMPRESSIONS_DOWN
from fedpipe.federated.compression.base import Compression, WithErrorFeedback
from fedpipe.federated.compression.codecs import KINDS, deflate, inflate, packed, unpacked
from fedpipe.federated.compression.entropy import Zlib
from fedpipe.federated.compression.floats import BFloat16, Float16
from fedpipe.federated.compression.qsgd import Qsgd
from fedpipe.federated.compression.sign import Sign
from fedpipe.federated.compression.sparse import RandomK, TopK
from fedpipe.federated.context import ArrivalContext, ClientContext, LocalTraining
from fedpipe.federated.messages import ClientReport, Update
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ClientStates, ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.federated.transforms.base import Chain
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import flat
from fedpipe.models.reference_cnn import ReferenceBatchNormCNN
from fedpipe.system.randomness import generator
from tests.conftest import ROOT
from tests.federations import MNIST, client_of, federate, first_round, same, start_of, task_of, weights_of

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
def test_entropy_coding_loses_nothing_of_a_compressions_tensors(compression: Compression, vector: Tensor):
    tensors = compression.encode(vector, addressed())
    back = inflate(deflate(tensors))
    assert tensors.keys() == back.keys()
    assert all(tensors[name].dtype == back[name].dtype for name in tensors)
    assert all(torch.equal(tensors[name], back[name]) for name in tensors)


@pytest.mark.parametrize("dtype", KINDS.values(), ids=str)
@pytest.mark.parametrize("name", ["values", "indices", "a.b"])
def test_entropy_coding_loses_nothing_of_any_numbers(dtype: torch.dtype, name: str):
    """Also if they are called indices and do not ascend."""
    if name == "indices" and dtype.is_floating_point:
        return
    tensor = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 240, dtype=np.uint8)).view(dtype)
    [(found, back)] = inflate(deflate({name: tensor})).items()
    assert (found, back.dtype) == (name, dtype)
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


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
    ids=lambda value: repr(value) if isinstance(value, Compression) else "",
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
    length = len(deflate(tensors)["indices.int32"])
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
    least = float(np.finfo(np.float32).smallest_subnormal)  # nothing is sent more finely
    np.testing.assert_allclose(arrived, np.where(x >= 0, scale, -scale), rtol=1e-6, atol=least)
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


# On updates

SGD = LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.05)
REPORT = ClientReport(1, 2, 10, 1, 0.0, None, None, 0, None, None)


def sent_by(chain: Chain, delta: Tensor, round: int, states: dict[str, Any]) -> Update:
    """What a client sends that remembers its last round in `states`."""
    context = ClientContext(round, 2, 1.0, SGD, torch.zeros(len(delta)), {}, start_loss=lambda: 1.0, seed=7)
    update, new = chain.on_client(Update(2, 1.0, REPORT, delta), context, states)
    states.update(new)
    return update


def arrived(chain: Chain, update: Update, round: int, d: int) -> Update:
    return chain.on_arrival(update, ArrivalContext(round, 2, 7, d))


whole = st.integers(1, 12).flatmap(
    lambda d: st.lists(st.lists(st.integers(-1000, 1000), min_size=d, max_size=d), min_size=1, max_size=6)
)


@pytest.mark.parametrize("kind", [TopK, RandomK, Sign])
@settings(max_examples=30)
@given(updates=whole)
def test_error_feedback_loses_nothing_over_time(kind: type[WithErrorFeedback], updates: list[list[int]]):
    """What has arrived and what the client remembers are all updates: exactly, where whole numbers are sent."""
    compression = kind() if kind is Sign else kind.model_validate({"fraction": 0.3})
    chain, states, d = Chain({"compression": compression}), {}, len(updates[0])
    total = torch.zeros(d)
    for round, delta in enumerate(updates, start=1):
        total += arrived(chain, sent_by(chain, torch.tensor(delta).float(), round, states), round, d).delta
    together = total + states["compression"]["error"]
    expected = torch.tensor(updates).sum(0).float()
    if kind is Sign:
        torch.testing.assert_close(together, expected, rtol=0, atol=0.01)
    else:
        assert torch.equal(together, expected)


@pytest.mark.parametrize("compression", [TopK(error_feedback=False), Sign(error_feedback=False), Qsgd(), Float16()])
def test_without_error_feedback_clients_remember_nothing(compression: Compression):
    states: dict[str, Any] = {}
    sent_by(Chain({"compression": compression}), some_vector(50), 1, states)
    assert not compression.has_client_state
    assert states == {"compression": {}}


@given(compression=compressions, vector=moderate)
def test_zlib_is_undone_before_the_compression(compression: Compression, vector: Tensor):
    plain, short = Chain({"compression": compression}), Chain({"compression": compression, "coding": Zlib()})
    one, other = (arrived(chain, sent_by(chain, vector, 3, {}), 3, len(vector)) for chain in (plain, short))
    assert torch.equal(one.delta, other.delta)
    assert one.encoded == other.encoded == {}


def test_zlib_without_a_compression_sends_the_same_update_in_fewer_bytes():
    chain, vector = Chain({"compression": Compression(), "coding": Zlib()}), torch.linspace(-1e-3, 1e-3, 5000)
    update = sent_by(chain, vector, 1, {})
    assert torch.equal(arrived(chain, update, 1, 5000).delta, vector)
    assert len(update) < 0.9 * len(Update(2, 1.0, REPORT, vector))


@pytest.mark.parametrize(
    ("compression", "broken"),
    [
        (TopK(fraction=0.5), {"indices": torch.tensor([0, 4], dtype=torch.int32), "values": torch.ones(2)}),
        (TopK(fraction=0.5), {"indices": torch.tensor([-1, 2], dtype=torch.int32), "values": torch.ones(2)}),
        (TopK(fraction=0.5), {"indices": torch.tensor([2, 2], dtype=torch.int32), "values": torch.ones(2)}),
        (TopK(fraction=0.5), {"indices": torch.tensor([1, 2], dtype=torch.int32), "values": torch.ones(3)}),
        (TopK(fraction=0.5), {}),
        (RandomK(fraction=0.5), {"values": torch.ones(3)}),
        (Qsgd(), {"codes": torch.zeros(3, dtype=torch.uint8), "norms": torch.ones(1)}),
        (Qsgd(), {"codes": torch.zeros(2, dtype=torch.uint8), "norms": torch.ones(2)}),
        (Sign(), {"signs": torch.zeros(2, dtype=torch.uint8), "scale": torch.ones(1)}),
        (Float16(), {"float16": torch.ones(3).half()}),
        (Zlib(), {"vector.float32": torch.zeros(9, dtype=torch.uint8)}),
        (Zlib(), {"vector.float32": deflate({"vector": torch.zeros(9, dtype=torch.uint8)})["vector.uint8"]}),
        (Zlib(), {"vector": torch.zeros(9, dtype=torch.uint8)}),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused(compression: Any, broken: dict[str, Tensor]):
    update = Update(2, 1.0, REPORT, torch.zeros(0), encoded=broken)
    with pytest.raises(Refused, match=r"^it cannot be decoded: "):
        arrived(Chain({"compression": compression}), update, 1, 4)


@given(compression=compressions, vector=moderate, coded=st.booleans())
def test_an_update_that_is_not_finite_is_still_refused(compression: Compression, vector: Tensor, coded: bool):
    vector[-1] = float("nan")
    chain = Chain({"compression": compression, **({"coding": Zlib()} if coded else {})})
    received = arrived(chain, sent_by(chain, vector, 1, {}), 1, len(vector))
    with pytest.raises(Refused, match="its delta is not finite"):
        Mean().contribution(received)


# In federations

BLOCKS: dict[str, dict[str, Any]] = {"top-k": {"fraction": 0.05}, "random-k": {"fraction": 0.05}, "qsgd": {"bits": 3}}
DOWN = {"top-k": "qsgd", "random-k": "bfloat16", "sign": "float16"}  # with which compression it is tried
NAMES = [name for name in COMPRESSIONS if name != "none"]


def setting(name: str, **more: Any) -> dict[str, Any]:
    """A federation with this compression, and one of the model that differs from one to the other."""
    down = {"compression_down": DOWN.get(name, "none")}
    return {"model": Logistic(), "local": SGD, "rounds": 3, "compression": name, **BLOCKS, **down, **more}


@pytest.fixture(scope="module")
def usual(folder: Path, test: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The last state and round with each compression, in threads."""
    return cache(lambda name: federate(folder, test, states=tmp_path_factory.mktemp(name), **setting(name))[-1])


@pytest.mark.parametrize(
    ("engine", "workers", "name"),
    [("threads", 1, "qsgd"), *(("processes", 2, name) for name in NAMES), ("ray", 2, "random-k"), ("ray", 2, "sign")],
)
def test_compressions_are_the_same_on_every_engine(
    name: str, engine: Any, workers: int, usual: Callable[[str], Any], folder: Path, test: Path, tmp_path: Path
):
    compute = Compute(engine=engine, workers=workers, device="cpu")
    found = federate(folder, test, states=tmp_path / "a", compute=compute, **setting(name))[-1]
    expected = usual(name)
    assert same(found[0].parameters, expected[0].parameters)
    assert found[1].row() == expected[1].row()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_a_compression_goes_on_exactly(
    name: str, usual: Callable[[str], Any], folder: Path, test: Path, tmp_path: Path
):
    expected = usual(name)
    part = federate(folder, test, states=tmp_path / "part", stop=1, **setting(name))
    found = federate(folder, test, states=tmp_path / "part", state=part[-1][0], **setting(name))[-1]
    assert same(found[0].parameters, expected[0].parameters)
    assert found[1].row() == expected[1].row()


@pytest.mark.parametrize("name", ["none", *NAMES])
def test_entropy_coding_changes_the_bytes_and_no_bit_of_the_model(name: str, folder: Path, test: Path, tmp_path: Path):
    plain, coded = (
        federate(folder, test, states=tmp_path / coding, **setting(name, entropy_coding=coding, rounds=2))[-1]
        for coding in ("none", "zlib")
    )
    assert same(plain[0].parameters, coded[0].parameters)
    sides = {"bytes_down": None, "bytes_up": None}
    assert plain[1].row() | sides == coded[1].row() | sides
    assert coded[1].bytes_down != plain[1].bytes_down
    assert coded[1].bytes_up != plain[1].bytes_up


@pytest.mark.parametrize(
    ("name", "theory"),
    [
        ("none", 4 * 7850), ("top-k", 8 * 393), ("random-k", 4 * 393), ("qsgd", 3 * 7850 / 8 + 4 * 16),
        ("sign", 7850 / 8 + 4), ("float16", 2 * 7850), ("bfloat16", 2 * 7850),
    ],
)  # fmt: skip
def test_bytes_are_those_of_what_is_really_sent(name: str, theory: float, folder: Path, test: Path, tmp_path: Path):
    """The tensors, and less than 1.5 kB around them."""
    _, round = federate(folder, test, states=tmp_path, **setting(name, rounds=1, compression_down="none"))[-1]
    assert theory < round.bytes_up / 3 < theory + 1500
    assert 4 * 7850 < round.bytes_down / 3 < 4 * 7850 + 1500
    if name in COMPRESSIONS_DOWN:
        more = {"compression": "none", "compression_down": name, "qsgd": {"bits_down": 3}, "rounds": 1}
        _, round = federate(folder, test, states=tmp_path, **setting("none", **more))[-1]
        assert theory < round.bytes_down / 3 < theory + 1500
        assert 4 * 7850 < round.bytes_up / 3 < 4 * 7850 + 1500


def vector_after(state: ServerState) -> np.ndarray:
    return flat(state.parameters.values()).double().numpy()


@pytest.mark.parametrize("name", ["top-k", "sign"])
def test_error_feedback_does_what_its_algorithm_says(name: str, folder: Path, test: Path, tmp_path: Path):
    """Transcribed in NumPy, on what clients of the same federation without compression would send."""

    def compressed(wanted: np.ndarray) -> np.ndarray:
        if name == "sign":
            return np.abs(wanted).mean() * np.where(wanted >= 0, 1, -1)
        least = np.sort(np.abs(wanted))[-393]
        return np.where(np.abs(wanted) >= least, wanted, 0)

    rounds = federate(folder, test, states=tmp_path / "a", **setting(name, compression_down="none"))
    plain = client_of(
        folder, tmp_path / "b", seed=11, architecture=Logistic().on(MNIST), local=SGD, clients_per_round=3
    )
    torch.set_num_threads(1)
    errors: dict[int, np.ndarray] = {}
    parameters = start_of(Logistic())
    for state, round in rounds:
        sent = []
        for report in round.clients:
            broadcast = replace(first_round(parameters), round=round.number)
            wanted = plain.update(broadcast, task_of(report.client)).delta.double().numpy()
            wanted += errors.get(report.client, 0)
            sent.append(compressed(wanted))
            errors[report.client] = wanted - sent[-1]
            assert report.update_norm == pytest.approx(np.linalg.norm(sent[-1]), rel=1e-4)
        moved = vector_after(state) - flat(parameters.values()).double().numpy()
        mean = np.average(sent, axis=0, weights=weights_of([report.client for report in round.clients]))
        np.testing.assert_allclose(moved, mean, atol=1e-6)
        parameters = state.parameters
    for client, number in rounds[-1][0].last_rounds.items():
        found = ClientStates(tmp_path / "a").read(client, number)["compression"]["error"]
        np.testing.assert_allclose(found, errors[client], atol=1e-6)


@pytest.mark.parametrize("down", [name for name in COMPRESSIONS_DOWN if name != "none"])
def test_clients_train_from_what_they_receive_and_the_server_adds_to_what_it_has(
    down: str, folder: Path, test: Path, tmp_path: Path
):
    more: dict[str, Any] = {"compression_down": down, "rounds": 2, "qsgd": {"bits_down": 6}}
    (first, _), (second, round) = federate(folder, test, states=tmp_path, **setting("none", **more))
    client = client_of(folder, tmp_path, seed=11, architecture=Logistic().on(MNIST), local=SGD, clients_per_round=3)
    server = flat(first.parameters.values())
    if down == "qsgd":
        draws = generator(11, "compression down", round=2)
        there = there_and_back_with(Qsgd(bits=6), server, draws)
    else:
        there = server.to(getattr(torch, down)).float()
    assert not torch.equal(there, server)
    pieces = there.split([tensor.numel() for tensor in first.parameters.values()])
    received = {
        name: piece.view_as(tensor) for (name, tensor), piece in zip(first.parameters.items(), pieces, strict=True)
    }
    torch.set_num_threads(1)
    clients = [report.client for report in round.clients]
    deltas = [client.update(replace(first_round(received), round=2), task_of(k)).delta.numpy() for k in clients]
    expected = server.double().numpy() + np.average(deltas, axis=0, weights=weights_of(clients))
    np.testing.assert_allclose(vector_after(second), expected, atol=1e-7)


def there_and_back_with(compression: Compression, vector: Tensor, draws: np.random.Generator) -> Tensor:
    return compression.decode(compression.encode(vector, draws), len(vector), draws)


def test_of_the_model_only_what_clients_train_and_send_is_encoded(tmp_path: Path):
    """With fedbn: no statistics of batch normalisation, and no parameters of it, which stay at home."""
    architecture = ReferenceBatchNormCNN().on(MNIST)
    client = client_of(tmp_path, tmp_path, architecture=architecture, strategy="fedbn", compression_down="float16")
    broadcast = first_round(start_of(architecture))
    sent = client.sent(broadcast)
    assert all("norm" in name for name in sent.parameters)
    assert len(sent.encoded["float16"]) == client.layout.dimension == 28_938
    received = client.received(type(sent).decode(sent.encode()))
    assert received.parameters.keys() == broadcast.parameters.keys()
    for name, tensor in broadcast.parameters.items():
        expected = tensor if "norm" in name else tensor.half().float()
        assert torch.equal(received.parameters[name], expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compression_goes_with_every_strategy_or_is_refused_by_a_sentence(
    strategy: str, folder: Path, test: Path, tmp_path: Path
):
    model = ReferenceBatchNormCNN() if strategy == "fedbn" else Logistic()
    if STRATEGIES[strategy].transforms_break:
        with pytest.raises(ValidationError, match=f"compression: top-k does not go with strategy {strategy}: "):
            Federated(strategy=strategy, compression="top-k")
        return
    rounds = federate(
        folder,
        test,
        states=tmp_path,
        strategy=strategy,
        **setting("top-k", model=model, rounds=2, entropy_coding="zlib"),
    )
    assert len(rounds[-1][1].clients) == 3
    assert np.isfinite(vector_after(rounds[-1][0])).all()


def test_an_update_that_was_lost_leaves_the_error_as_it_was(folder: Path, tmp_path: Path):
    """The next task says which round counted last: the client goes on from the error of that one."""
    client = client_of(
        folder, tmp_path, seed=3, architecture=Logistic().on(MNIST), local=SGD, compression="top-k", **BLOCKS
    )
    start = first_round(start_of(Logistic()))
    first = client.update(start, task_of(2))
    lost = client.update(replace(start, round=2), task_of(2, last_round=1))
    again = client.update(replace(start, round=3), task_of(2, last_round=1))
    other = client_of(
        folder, tmp_path / "other", seed=3, architecture=Logistic().on(MNIST), local=SGD, compression="top-k", **BLOCKS
    )
    other.update(start, task_of(2))
    expected = other.update(replace(start, round=3), task_of(2, last_round=1))
    assert torch.equal(again.encoded["values"], expected.encoded["values"])
    assert not torch.equal(again.encoded["values"], first.encoded["values"])
    assert not torch.equal(again.encoded["values"], lost.encoded["values"])


@pytest.mark.parametrize("value", ["topk", "top-k+sign", ""])
def test_what_is_no_compression_is_refused(value: str):
    with pytest.raises(ValidationError, match="'none', 'top-k', 'random-k', 'qsgd', 'sign', 'float16' or 'bfloat16'"):
        Federated(compression=value)


def test_each_compression_stands_in_the_table_of_the_page():
    page = (ROOT / "docs/communication.md").read_text()
    for name, kind in COMPRESSIONS.items():
        [row] = re.findall(rf"^\| `{name}` \| [^|]+ \| [^|]+ \| [^|]+ \|(.*)\|$", page, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row) == [field for field in kind.model_fields if field != "bits_down"]


def test_compression_goes_with_robust_aggregations_and_attackers(folder: Path, test: Path, tmp_path: Path):
    """Colluding attackers see what arrives, decoded, and so do aggregations that need each update by itself."""
    more: dict[str, Any] = {"aggregation": "median", "attack": "alie", "attackers": 0.4, "clients_per_round": 5}
    results = [
        federate(
            folder, test, states=tmp_path / engine, compute=Compute(engine=engine, workers=2, device="cpu"),
            **setting("top-k", **more),
        )[-1]
        for engine in ("threads", "processes")
    ]  # fmt: skip
    assert same(results[0][0].parameters, results[1][0].parameters)
    assert results[0][1].row() == results[1][1].row()
    assert len(results[0][1].clients) == 5
