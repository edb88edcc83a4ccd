"""Every message has a byte form, and comes back from it as it was."""

import json
import struct
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from fedpipe.federated.aggregation.collected import Collected
from fedpipe.federated.aggregation.mean import ExactSum
from fedpipe.federated.messages import Broadcast, ClientReport, Message, PartialSum, Refusal, Task, Update
from fedpipe.federated.secure.messages import (
    EncryptedShares,
    MaskedInput,
    MaskRequest,
    PublicKeys,
    ShareRequest,
    Shares,
    UnmaskRequest,
)
from fedpipe.system.records import Record

numbers = st.floats(allow_nan=False, width=64)
counts = st.integers(0, 10**6)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tensors = st.builds(
    lambda dtype, shape, seed: (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype),
    st.sampled_from(
        [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bfloat16, torch.float16]
    ),
    st.lists(st.integers(0, 4), max_size=3),
    counts,
)
states = st.dictionaries(names, tensors, max_size=3)
reports = st.builds(
    ClientReport, counts, counts, counts, counts, numbers, st.none() | numbers, st.none() | numbers, counts,
    st.none() | numbers, st.none() | numbers,
)  # fmt: skip
updates = st.builds(
    Update,
    counts,
    numbers,
    reports,
    tensors,
    states,
    states,
    st.dictionaries(names, numbers, max_size=2),
    states,
)
exact_sums = st.builds(
    ExactSum,
    states,
    st.dictionaries(names, numbers, max_size=2),
    st.dictionaries(names, st.fractions(), max_size=2),
    st.fractions(),
    counts,
)  # fmt: skip
MESSAGES = {
    Broadcast: st.builds(Broadcast, counts, states, states, states, counts.map(torch.tensor), states),
    Task: st.builds(Task, counts, counts, numbers, numbers, counts),
    ClientReport: reports,
    Update: updates,
    Refusal: st.builds(Refusal, counts, names),
    ExactSum: exact_sums,
    Collected: st.builds(Collected, st.dictionaries(counts.map(str), updates, max_size=3)),
    PartialSum: st.builds(
        PartialSum, exact_sums, st.lists(reports, max_size=2).map(tuple),
        st.lists(st.builds(Refusal, counts, names), max_size=2).map(tuple), counts,
    ),
    PublicKeys: st.builds(PublicKeys, counts, tensors, tensors),
    ShareRequest: st.builds(ShareRequest, counts, counts, tensors, tensors),
    EncryptedShares: st.builds(EncryptedShares, counts, tensors),
    MaskRequest: st.builds(MaskRequest, counts, counts, tensors, tensors),
    MaskedInput: st.builds(MaskedInput, counts, tensors),
    UnmaskRequest: st.builds(UnmaskRequest, counts, counts, counts, tensors, tensors, tensors, tensors),
    Shares: st.builds(Shares, counts, tensors),
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("kind", MESSAGES)
@given(data=st.data())
def test_a_message_comes_back_from_its_bytes(kind: type[Message], data: st.DataObject):
    message = data.draw(MESSAGES[kind])
    assert same(kind.decode(message.encode()), message)
    assert message.encode() == message.encode()


@given(report=reports, values=st.tuples(numbers, numbers))
def test_the_length_of_a_message_does_not_depend_on_the_digits_of_its_numbers(
    report: ClientReport, values: tuple[float, float]
):
    """These differ from one type of CPU to another, and bytes are counted."""
    lengths = {len(replace(report, train_loss=value, loss=value)) for value in (*values, float("nan"), 0.1, 1 / 3)}
    assert len(lengths) == 1


def test_every_message_is_held_to_this_law():
    assert {kind for kind in Record.kinds.values() if issubclass(kind, Message)} - {Message} == set(MESSAGES)


def test_the_byte_form_is_a_safetensors_file_with_json_in_it():
    update = Update(3, 0.5, ClientReport(1, 3, 10, 1, 0.1, None, None, 0, None, None), torch.arange(4.0))
    data = update.encode()
    assert torch.equal(load(data)["/delta"], torch.arange(4.0))
    (length,) = struct.unpack_from("<Q", data)
    content = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["message"])
    assert content["client"] == 3
    assert load(data)["floats"].tolist() == [0.5, 0.1, 0.0]  # in the order of the fields
    assert len(data) == 8 + length + 3 * 8 + 4 * 4


def test_a_message_may_hold_one_tensor_twice():
    tensor = torch.arange(4.0)
    message = Broadcast(1, {"a": tensor, "b": tensor}, {"c": tensor[1:]})
    assert same(Broadcast.decode(message.encode()), message)


def test_a_decoded_message_has_tensors_of_its_own():
    message = Broadcast(1, {"w": torch.zeros(3)})
    decoded = Broadcast.decode(message.encode())
    decoded.parameters["w"].add_(1)
    assert message.parameters["w"].sum() == 0


def test_bytes_that_name_no_message_are_not_decoded():
    data = Refusal(1, "x").encode().replace(b"Refusal", b"Popen  ")
    with pytest.raises(KeyError, match="Popen"):
        Refusal.decode(data)


def test_fractions_stay_exact():
    total = ExactSum({}, {}, {"x": Fraction(1, 3)}, Fraction(0.1), 0)
    assert ExactSum.decode(total.encode()).scalars["x"] == Fraction(1, 3)
