"""`fedpipe privacy` tells what a training would cost, and it is what the training costs."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from fedpipe import cost
from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.experiment import FederatedData, run
from fedpipe.federated.context import ServerContext
from fedpipe.federated.mechanisms.clipped import ClippedSum
from fedpipe.models.logistic import Logistic
from fedpipe.pipeline import check
from fedpipe.system.errors import ParameterError
from tests.conftest import ROOT
from tests.federations import experiment_of
from tests.test_cli import fedpipe

FEDERATED: dict[str, Any] = {
    "privacy": "gaussian", "sampling": "poisson", "objective": "clients", "evaluate_clients": False, "rounds": 30,
    "clients_per_round": 20, "gaussian": {"clip": 0.5, "epsilon": 4.0},
}  # fmt: skip
TREE: dict[str, Any] = {"privacy": "tree", "sampling": "shuffled", "tree": {"clip": 0.5, "epsilon": 4.0}}


def params(folder: Path, *, clients: int = 100, model: str = "logistic", **federated: Any) -> Path:
    """A file of parameters."""
    values = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    blocks = {name: values["federated"][name] | block for name, block in federated.items() if isinstance(block, dict)}
    values["federated"] |= federated | blocks
    values["partition"]["clients"] = clients
    values["model"]["name"] = model
    path = folder / "private.yaml"
    YAML(typ="safe", pure=True).dump(values, path)
    return path


@pytest.mark.parametrize("settings", [FEDERATED, FEDERATED | TREE], ids=["gaussian", "tree"])
def test_what_is_told_before_is_what_training_costs(
    settings: dict[str, Any], sample: Dataset, test: Path, tmp_path: Path
):
    settings = settings | {"clients_per_round": 4, "rounds": 6}
    told = cost.of(check(params(tmp_path, clients=20, **settings))).as_json()
    shards = tmp_path / "shards"
    store.write(shards, sample.train.images, sample.train.labels, np.array_split(np.arange(100), 20), 10)
    result = run(experiment_of(model=Logistic(), **settings), FederatedData(dataset=test.parent, clients=shards))
    figures, rows = result.figures(), {row["round"]: row for row in result.round_rows()}
    assert {name: told[name] for name in ("epsilon", "delta", "noise_multiplier")} == {
        name: figures[name] for name in ("epsilon", "delta", "noise_multiplier")
    }
    assert [row["round"] for row in told["after"]] == [1, 2, 5, 6]
    for row in told["after"]:
        assert row == {name: rows[row["round"]][name] for name in ("round", "epsilon_rdp", "epsilon_pld")}


@pytest.mark.parametrize("block", [{}, {"quantile": 0.5}], ids=str)
def test_the_norm_of_the_noise_is_that_of_what_is_added(block: dict[str, Any], tmp_path: Path):
    settings = FEDERATED | {"gaussian": FEDERATED["gaussian"] | {"quantile_noise": 2.0} | block}
    pipeline = check(params(tmp_path, **settings))
    aggregator = pipeline.federated.aggregator
    assert isinstance(aggregator, ClippedSum)
    added = aggregator.result(aggregator.empty(), ServerContext(1, 0, 0, {}, 7850, 100)).delta
    assert cost.of(pipeline).noise_norm == pytest.approx(float(added.norm()), rel=0.03)


def test_another_number_of_rounds_takes_other_noise(tmp_path: Path):
    pipeline = check(params(tmp_path, **FEDERATED))
    few, many = cost.of(pipeline, 10).guarantee, cost.of(pipeline, 1000).guarantee
    assert (few.rounds, many.rounds) == (10, 1000)
    assert few.noise_multiplier < cost.of(pipeline).guarantee.noise_multiplier < many.noise_multiplier
    assert max(few.epsilon, many.epsilon) <= 4


@pytest.mark.parametrize(
    ("rounds", "expected"), [(1, [1]), (2, [1, 2]), (30, [1, 2, 5, 10, 20, 30]), (100, [1, 2, 5, 10, 20, 50, 100])]
)
def test_a_table_has_round_numbers_and_the_last(rounds: int, expected: list[int]):
    assert cost.shown(rounds) == expected


def test_without_a_mechanism_there_is_nothing_to_tell():
    with pytest.raises(ParameterError, match=r"^federated\.privacy: none: clients are promised nothing; gaussian or"):
        cost.of(check(ROOT / "params.yaml"))


@pytest.mark.slow  # each starts the program
class TestCommand:
    def test_people_read_a_table_the_noise_and_a_sentence(self, tmp_path: Path):
        done = fedpipe("privacy", str(params(tmp_path, **FEDERATED)))
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= 100
        rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) *$", done.stdout, re.MULTILINE)
        assert [int(round) for round, _, _ in rows] == [1, 2, 5, 10, 20, 30]
        assert all(float(pld) < float(rdp) for _, rdp, pld in rows)
        assert 3.99 < float(rows[-1][-1]) <= 4
        text = " ".join(done.stdout.split())
        assert re.search(r"Mechanism gaussian, 100 clients, 20 a round: noise multiplier [\d.]+, delta 0\.00631", text)
        assert re.search(r"its norm is about [\d.]+, or [\d.]+ times the clip, which is 0\.5 for each update", text)
        assert re.search(r"Whatever all 30 rounds release is at most e\^\S+ = 5\d\.\d times as likely with the", text)

    def test_a_tree_has_one_accountant(self, tmp_path: Path):
        done = fedpipe("privacy", str(params(tmp_path, **FEDERATED | TREE)))
        assert "RDP" in done.stdout
        assert "PLD" not in done.stdout

    def test_programs_read_json(self, tmp_path: Path):
        done = fedpipe("privacy", str(params(tmp_path, **FEDERATED)), "--rounds", "7", "--json")
        told = json.loads(done.stdout)
        assert told["rounds"] == 7
        assert math.isclose(told["after"][-1]["epsilon_pld"], told["epsilon"])

    def test_mistakes_are_told_as_the_check_tells_them(self, tmp_path: Path):
        path = params(tmp_path, **{**FEDERATED, "sampling": "uniform"})
        done = fedpipe("privacy", str(path))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{path}: federated.sampling: uniform does not go with privacy gaussian: ")
        assert fedpipe("privacy").stderr == (
            "params.yaml: federated.privacy: none: clients are promised nothing; gaussian or tree would do\n"
        )
