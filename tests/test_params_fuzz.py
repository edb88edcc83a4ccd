"""Whatever a params.yaml holds, the check takes it or refuses it in lines that name the file, and does so soon.

`HUNT=1000 pytest tests/test_params_fuzz.py` tries so many of each kind; without it, a sample.
"""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fedpipe.data.datasets import Dataset, save
from fedpipe.pipeline import check
from fedpipe.system.errors import UserError
from tests.test_params import PARAMS, changed

TRIED = int(os.environ.get("HUNT", "40"))  # of each kind
SECONDS = 20.0  # in which the check answers, however busy the machine


def paths(value: object, path: str = "") -> list[str]:
    """The dotted paths of all keys."""
    if not isinstance(value, dict):
        return []
    return [p for key, item in value.items() for p in (f"{path}{key}", *paths(item, f"{path}{key}."))]


KEYS = paths(YAML(typ="safe", pure=True).load(PARAMS))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**21, 10**400, -(2**63), 10**8, 1_000_000]),
    st.floats(),
    st.sampled_from([1e-45, 1e39, 1e308, 5e-324, float("inf"), float("nan")]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
    st.sampled_from(
        ["auto", "none", "clip+clip", "shards+quantity", "+", "x" * 5000, "a\nb", "~", "yes", "1e-3", "0x10"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers(), max_size=3),
)


def answers(text: str | bytes, folder: Path) -> str:
    """What the check says, which is nothing if the file is valid."""
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.monotonic()
    try:
        check(path)
        said = ""
    except UserError as error:
        said = str(error)
    assert time.monotonic() - begun < SECONDS
    for line in said.splitlines():
        assert line.startswith(str(path)), line
        assert len(line) < 1500 + len(str(path)), line
        assert line.isprintable(), line
    return said


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params")


@given(key=st.sampled_from(KEYS), value=ODD)
@settings(max_examples=TRIED, deadline=None)
def test_any_value_anywhere(key: str, value: object, scratch: Path):
    answers(changed(key, value), scratch)


BITS = [b"[", b"{", b"&a ", b"*a", b"\t", b"!!", b"? ", b"- ", b"\xff", b"%", b"---\n"]


@given(start=st.integers(0, len(PARAMS)), length=st.integers(0, 30), new=st.binary(max_size=8) | st.sampled_from(BITS))
@settings(max_examples=TRIED, deadline=None)
def test_any_bytes_in_any_place(start: int, length: int, new: bytes, scratch: Path):
    data = PARAMS.encode()
    answers(data[:start] + new + data[start + length :], scratch)


@given(key=st.sampled_from(KEYS), other=st.sampled_from(KEYS))
@settings(max_examples=TRIED, deadline=None)
def test_any_value_of_another_key(key: str, other: str, scratch: Path):
    value: object = YAML(typ="safe", pure=True).load(PARAMS)
    for part in other.split("."):
        assert isinstance(value, dict)
        value = value[part]
    answers(changed(key, value), scratch)


BOMB = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (PARAMS.replace("seed: 42", "seed: 42 # für", 1).encode("latin-1", "replace"), "line 5 is not UTF-8"),
        ("a: " + "[" * 500, "blocks within blocks, more than 20 deep"),
        ("".join("  " * n + f"k{n}:\n" for n in range(500)), "blocks within blocks, more than 20 deep"),
        ("seed: &x [*x]", "line 1: an alias, *x; write out what it stands for"),
        (BOMB, "an alias, *a0; write out what it stands for"),
        ("seed: " + "9" * 4301, "not valid YAML: Exceeds the limit (4300 digits)"),
        ("? [1, 2]\n: 3", "(1, 2): unknown key"),
        ("? !!binary abcd\n: 3", "unknown key"),
        ("seed: 2001-02-30", "not valid YAML: day is out of range for month"),
        ('"a\\nb": 1', "a b: unknown key"),
        ("seed: " + "x" * 5000, "is not a whole number"),
        ("x" * 2_000_000, "2,000,000 characters long"),
        ("", "is not a block of keys"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_odd_file_is_refused_in_a_line(text: str | bytes, line: str, tmp_path: Path):
    assert line in answers(text, tmp_path)


def test_what_is_no_file_is_refused_in_a_line(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "loop"):
        with pytest.raises(UserError, match=r"cannot be read: .*director|cannot be read: Too many"):
            check(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("baseline.threads", 1_000_000, "baseline.threads: 1000000 must be at most 1,024"),
        ("compute.workers", 100_000, "compute.workers: 100000: must be auto or a whole number from 1 to 1024"),
        ("federated.local.lr", 1e39, "federated.local.lr: 1e+39 must be at most 3.4e+38"),
        ("federated.rounds", 10**10, "federated.rounds: 10000000000 must be at most 2,147,483,647"),
        ("partition.clients", 10**21, "partition.clients: 1000000000000000000000 must be at most 1,000,000"),
        ("partition.clients", 10**8, "partition.clients: 100000000 must be at most 1,000,000"),
    ],
)  # fmt: skip
def test_what_no_machine_can_bear_is_a_mistake(key: str, value: object, line: str, tmp_path: Path):
    assert answers(changed(key, value), tmp_path) == f"{tmp_path / 'params.yaml'}: {line}"


def test_the_check_knows_that_the_sample_is_there(tmp_path: Path, sample: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = changed("partition.clients", 5000)
    assert answers(text, tmp_path) == ""
    save(sample, tmp_path / "data/dataset")
    assert "partition.clients: 5000 exceeds the 4000 training examples" in answers(text, tmp_path)
