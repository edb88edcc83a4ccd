"""Aggregators are sums that can be made anywhere: exact, in any order and grouping."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.aggregation.base import Aggregator, Refused
from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.aggregation.mean import CAPACITY, MEANS, SUMS, ExactSum, Mean
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate, ClientReport, Message, Update
from fedpipe.system.errors import UserError

TOO_LARGE = r"^training diverges: the sum of the updates is too large; a smaller local\.lr might do$"


class Median(Collecting):
    """The coordinate-wise median, which needs every update at once."""

    def result(self, total: Collected, context: ServerContext) -> Aggregate:
        return Aggregate(torch.stack([update.delta for update in total.in_order()]).double().median(dim=0).values)


def update(client: int, weight: float, delta: Sequence[float], **more: Any) -> Update:
    report = ClientReport(1, client, 10, 1, 0.0, None, None, 0, None, None)
    return Update(client, weight, report, torch.tensor(delta), **more)


def summed(aggregator: Aggregator, updates: Sequence[Update]) -> Any:
    total = aggregator.empty()
    for one in updates:
        total = aggregator.add(total, one)
    return total


def result_of(aggregator: Aggregator, total: Any) -> Aggregate:
    return aggregator.result(total, ServerContext(1, 3, 0, {}))


def mean_of(updates: Sequence[Update]) -> Aggregate:
    return result_of(Mean(), summed(Mean(), updates))


numbers = st.floats(-1000, 1000, width=32)
vectors = st.lists(numbers, min_size=3, max_size=3)
cohorts = st.lists(st.tuples(st.integers(1, 10**6), vectors, numbers), min_size=1, max_size=20)


def cohort_of(clients: list[tuple[int, list[float], float]]) -> list[Update]:
    """Updates with weights that sum to 1, buffers, sums and scalars."""
    total = sum(examples for examples, _, _ in clients)
    return [
        update(
            k, examples / total, delta, buffers={"b": torch.tensor(delta[:1]), "n": torch.tensor(k)},
            sums={"s": torch.tensor(delta) / 20}, scalars={"x": scalar},
        )
        for k, (examples, delta, scalar) in enumerate(clients)
    ]  # fmt: skip


def equal(one: Aggregate, other: Aggregate) -> bool:
    """To the last bit."""
    tensors = [{"delta": a.delta, **a.buffers, **{f"s/{k}": v for k, v in a.sums.items()}} for a in (one, other)]
    return (
        tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
        and one.scalars == other.scalars
    )


@given(cohorts)
def test_the_mean_is_numpys_weighted_average(clients: list[tuple[int, list[float], float]]):
    examples, deltas, scalars = zip(*clients, strict=True)
    mean = mean_of(cohort_of(clients))
    assert mean.delta.dtype == torch.float64
    np.testing.assert_allclose(mean.delta, np.average(deltas, axis=0, weights=examples), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mean.buffers["b"], mean.delta[:1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mean.sums["s"], np.sum(deltas, axis=0) / 20, rtol=1e-6, atol=1e-5)  # float32 terms
    expected = np.average([float(np.float32(x)) for x in scalars], weights=examples)
    assert mean.scalars["x"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(-1e3, 1e3, width=32))
def test_the_mean_of_equal_updates_is_that_update(examples: list[int], value: float):
    updates = [update(k, n / sum(examples), [value]) for k, n in enumerate(examples)]
    found = mean_of(updates).delta.item()
    assert found == pytest.approx(value, rel=1e-12)
    if abs(value) <= 1 and float(value * 2**44).is_integer():  # neither huge nor tiny
        assert found == value


@pytest.mark.parametrize("aggregator", [*(kind() for kind in AGGREGATORS.values()), Median()], ids=repr)
@given(clients=cohorts, data=st.data())
def test_neither_order_nor_grouping_nor_the_tree_changes_a_bit(
    aggregator: Aggregator, clients: list[tuple[int, list[float], float]], data: st.DataObject
):
    """Partial sums of any clients, or of none, merged two at a time in any order, each sent on as bytes or not."""
    several = clients if aggregator.enough(len(clients)) else (clients * 15)[:15]  # enough for each of them
    updates = cohort_of(several)
    expected = result_of(aggregator, summed(aggregator, updates))
    order = data.draw(st.permutations(updates))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)))) | {0, len(order)})
    sums = [aggregator.empty(), *(summed(aggregator, order[start:stop]) for start, stop in pairwise(cuts))]
    while len(sums) > 1:
        one = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
        other = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
        merged = aggregator.merge(one, other)
        sums.append(type(merged).decode(merged.encode()) if data.draw(st.booleans()) else merged)
    assert equal(result_of(aggregator, sums[0]), expected)


def test_float_sums_would_not_be_so():
    """Else the laws above would hold for any sum."""
    values = np.random.default_rng(0).normal(size=20)
    sums = {sum(np.random.default_rng(seed).permutation(values)) for seed in range(20)}
    assert len(sums) > 1
    means = {
        mean_of([update(k, 0.05, [value]) for k, value in enumerate(np.random.default_rng(seed).permutation(values))])
        .delta.item()
        for seed in range(20)
    }  # fmt: skip
    assert len(means) == 1


@given(st.lists(st.floats(-MEANS.limit / 2, MEANS.limit / 2, width=32), min_size=1, max_size=30))
def test_each_number_is_rounded_once_to_the_unit(values: list[float]):
    """Also where numbers are too large for rounding by addition of a constant."""
    total = summed(Mean(), [update(0, 1.0, values)])
    assert total.vectors["delta"].tolist() == [
        round(Fraction(float(np.float32(x))) / Fraction(MEANS.unit)) for x in values
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["delta", "buffers", "sums", "scalars"])
@pytest.mark.parametrize("aggregator", [Mean(), Median()], ids=repr)
def test_an_update_that_is_not_finite_is_refused_and_changes_nothing(aggregator: Aggregator, value: float, where: str):
    good = update(0, 0.5, [1.0, 2.0])
    total = aggregator.add(aggregator.empty(), good)
    parts: dict[str, Any] = {"buffers": {"b": torch.tensor([0.0, value])}, "sums": {"s": torch.tensor([value, 0.0])},
                             "scalars": {"x": value}}  # fmt: skip
    bad = update(1, 0.5, [1.0, value]) if where == "delta" else update(1, 0.5, [1.0, 2.0], **{where: parts[where]})
    with pytest.raises(Refused, match=rf"^its {where}.* is not finite$"):
        aggregator.add(total, bad)
    assert equal(result_of(aggregator, total), result_of(aggregator, aggregator.add(aggregator.empty(), good)))


def test_an_update_out_of_range_is_refused_by_the_mean():
    assert mean_of([update(0, 1.0, [MEANS.limit / 2])]).delta.item() == MEANS.limit / 2
    with pytest.raises(Refused, match=r"^its delta reaches 8\.19e\+03; numbers below 8192 are averaged$"):
        mean_of([update(0, 1.0, [-MEANS.limit])])


def test_a_count_of_whole_numbers_may_be_large():
    """BatchNorm counts its batches: with batches of one example, more of them than other numbers may reach."""
    updates = [update(k, 0.5, [0.0], buffers={"n": torch.tensor(n)}) for k, n in enumerate((60_000, 60_003))]
    assert mean_of(updates).buffers["n"].item() == 60_001.5


def test_a_sum_that_would_leave_its_range_is_an_error_and_never_wraps():
    """Only sums without weights can come there: weights add up to 1."""
    large = [update(k, 0.001, [0.0], sums={"s": torch.tensor([SUMS.limit / 2])}) for k in range(2000)]
    assert result_of(Mean(), summed(Mean(), large[:500])).sums["s"].item() == 500 * SUMS.limit / 2
    with pytest.raises(UserError, match=TOO_LARGE):
        summed(Mean(), large)


def test_a_sum_leaves_its_range_where_the_largest_numbers_add_up_to_its_capacity():
    half = ExactSum(largest=CAPACITY // 2)
    assert Mean().merge(half, ExactSum(largest=CAPACITY // 2 - 1)).largest == CAPACITY - 1
    with pytest.raises(UserError, match=TOO_LARGE):
        Mean().merge(half, half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adding_changes_no_update(dtype: torch.dtype):
    one = replace(update(0, 0.5, []), delta=torch.tensor([1.0, 2.0], dtype=dtype))
    summed(Mean(), [one, one])
    assert one.delta.tolist() == [1.0, 2.0]


def test_the_mean_is_of_the_updates_that_came():
    """Whose weights need not add up to 1."""
    mean = mean_of(
        [update(k, 0.125, [x], buffers={"b": torch.tensor([x])}, scalars={"x": x}) for k, x in enumerate((1.0, 4.0))]
    )
    assert (mean.delta.item(), mean.buffers["b"].item(), mean.scalars["x"]) == (2.5, 2.5, 2.5)


def test_a_sum_is_a_message():
    total = summed(Mean(), cohort_of([(3, [1.0, 2.0, 3.0], 0.1), (5, [0.5, 0.25, -1.0], 7.0)]))
    assert isinstance(total, Message)
    assert isinstance(total, ExactSum)
    assert total.weight == 1
    assert total.scalars["x"] == Fraction(3 / 8) * Fraction(0.1) + Fraction(5 / 8) * Fraction(7)
