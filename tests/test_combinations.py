"""What combines with what is what docs/combinations.md says."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from fedpipe.federated.settings import Federated
from fedpipe.federated.strategies import STRATEGIES
from tests.conftest import ROOT, cells

PAGE = (ROOT / "docs/combinations.md").read_text(encoding="utf-8")
COMMON: dict[str, Any] = {
    "clients_per_round": 40, "objective": "clients", "sampling": "poisson", "evaluate_clients": False,
}  # fmt: skip
PIECES: dict[str, list[dict[str, Any]]] = {
    "robust": [
        {"aggregation": name}
        for name in ("median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median", "centered-clipping")
    ],
    "bounding": [{"aggregation": "norm-bounding"}],
    "mixing": [{"mixing": "nnm"}],
    "clip": [{"transforms": "clip"}],
    "compression": [
        {"compression": name} for name in ("top-k", "random-k", "qsgd", "sign", "float16", "bfloat16")
    ],
    "privacy": [{"privacy": "gaussian"}, {"privacy": "tree", "sampling": "shuffled"}],
    "secure": [{"secure_aggregation": "bonawitz"}],
    "attacks": [
        {"attack": name} for name in ("label-flip", "sign-flip", "scaled", "gaussian-noise", "backdoor")
    ],
    "alie, ipm": [{"attack": "alie"}, {"attack": "ipm"}],
}  # fmt: skip


def table(first: str) -> dict[tuple[str, str], str]:
    """The cells of the table whose header begins with this, by row and column."""
    [block] = [part for part in PAGE.split("\n\n") if part.startswith(f"| {first} |".replace("|  |", "| |"))]
    header, _, *rows = map(cells, block.splitlines())
    return {(row[0], column): cell for row in rows for column, cell in zip(header[1:], row[1:], strict=True)}


PAIRS = {pair: cell for pair, cell in table("").items() if cell}
WITH_STRATEGIES = {
    (name, piece): cell for (names, piece), cell in table("strategy").items() for name in names.split(", ")
}


def accepted(settings: dict[str, Any]) -> bool:
    if settings.get("mixing") and "aggregation" not in settings:  # mixing needs an aggregation that collects
        settings = {"aggregation": "trimmed-mean", **settings}
    try:
        Federated.model_validate(settings)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("pair", PAIRS, ids=" with ".join)
def test_two_pieces_combine_as_the_page_says(pair: tuple[str, str]):
    found = {accepted(COMMON | one | other) for one in PIECES[pair[0]] for other in PIECES[pair[1]]}
    assert found == {PAIRS[pair] == "yes"}
    assert PAIRS[pair] == PAIRS[pair[1], pair[0]]


@pytest.mark.parametrize("pair", WITH_STRATEGIES, ids=" with ".join)
def test_a_strategy_combines_with_a_piece_as_the_page_says(pair: tuple[str, str]):
    strategy, piece = pair
    assert {accepted(COMMON | one | {"strategy": strategy}) for one in PIECES[piece]} == {
        WITH_STRATEGIES[pair] == "yes"
    }


def test_the_page_has_every_pair_and_every_strategy():
    assert {frozenset(pair) for pair in PAIRS} == {
        frozenset({one, other}) for one in PIECES for other in PIECES if one != other
    } - {frozenset({"robust", "bounding"}), frozenset({"attacks", "alie, ipm"})}
    assert {name for name, _ in WITH_STRATEGIES} == set(STRATEGIES)


@pytest.mark.parametrize("name", ["compression_down", "entropy_coding"])
def test_the_down_link_and_entropy_coding_go_with_everything(name: str):
    value = {"compression_down": "qsgd", "entropy_coding": "zlib"}[name]
    for pieces in PIECES.values():
        for piece in pieces:
            assert accepted(COMMON | piece | {name: value}), piece
    for strategy in STRATEGIES:
        assert accepted(COMMON | {"strategy": strategy, name: value}), strategy


def test_the_refusal_on_the_page_is_what_is_said():
    with pytest.raises(ValidationError) as error:
        Federated.model_validate(COMMON | {"privacy": "gaussian", "aggregation": "median"})
    [quoted] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    said = " ".join(quoted.split()).removeprefix("params.yaml: federated.")
    assert said in str(error.value).replace("\n", " ")
