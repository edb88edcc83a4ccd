"""An attacker finds canaries in a model that was trained without noise, and not in one with a small epsilon."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.audit import Audit, attack, direction, takes_part
from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.experiment import FederatedData
from fedpipe.federated.context import LocalTraining
from fedpipe.models.logistic import Logistic
from fedpipe.system.errors import ParameterError
from tests.federations import experiment_of
from tests.test_cli import fedpipe
from tests.test_cost import params

CLIENTS = 120
PLAIN: dict[str, Any] = {
    "model": Logistic(), "clients_per_round": CLIENTS, "rounds": 2, "objective": "clients", "evaluate_clients": False,
    "sampling": "poisson", "evaluate_every": 2,
    "local": LocalTraining(epochs=1, batch_size=10, optimizer="sgd", lr=0.1),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(sample: Dataset, test: Path, tmp_path_factory: pytest.TempPathFactory) -> FederatedData:
    """Many clients of 5 examples."""
    folder = tmp_path_factory.mktemp("many") / "shards"
    store.write(folder, sample.train.images, sample.train.labels, np.array_split(np.arange(5 * CLIENTS), CLIENTS), 10)
    return FederatedData(dataset=test.parent, clients=folder)


def audited(data: FederatedData, canaries: float = 1.0, norm: float = 1.0, **settings: Any) -> Audit:
    return attack(experiment_of(**{**PLAIN, **settings}), data, canaries=canaries, norm=norm, delta=1e-5)


def private(epsilon: float, **changes: Any) -> dict[str, Any]:
    return {"privacy": "gaussian", "gaussian": {"epsilon": epsilon, "delta": 1e-5, "clip": 0.1, **changes}}


def test_an_attacker_wins_without_noise_and_not_with_epsilon_1(data: FederatedData):
    without, with_it = audited(data), audited(data, **private(1.0))
    assert without.epsilon is None
    assert without.canaries == CLIENTS
    assert without.correct == without.guesses == CLIENTS // 2  # every one
    chance = 0.05 ** (1 / 60)  # of one right guess, so that 60 of them have 5 %
    assert without.lower_bound == pytest.approx(math.log(chance / (1 - chance)), abs=0.05)
    assert with_it.epsilon is not None
    assert with_it.epsilon == pytest.approx(1, abs=0.01)
    assert with_it.correct < 0.7 * with_it.guesses
    assert with_it.lower_bound < with_it.epsilon


def test_an_attacker_who_knows_no_other_client_wins_without_noise(data: FederatedData):
    """A quarter are canaries, the others train. Nothing clips what canaries send."""
    found = audited(data, canaries=0.25, norm=4.0)
    assert found.canaries == CLIENTS // 4
    assert found.correct > 0.85 * found.guesses
    assert found.lower_bound > 1


@pytest.mark.parametrize("changes", [{}, {"quantile": 0.5}], ids=str)
def test_what_an_attack_proves_is_below_what_is_promised(changes: dict[str, Any], data: FederatedData):
    """And grows with it: the attack is no straw man."""
    bounds = {}
    for epsilon in (2.0, 50.0):
        found = audited(data, **private(epsilon, **changes))
        assert found.epsilon is not None
        bounds[epsilon] = found.lower_bound
        assert found.lower_bound < found.epsilon
    assert bounds[50.0] > max(2, bounds[2.0])


def test_an_attack_on_the_tree_finds_no_more_than_is_promised(data: FederatedData):
    settings = {"privacy": "tree", "sampling": "shuffled", "clients_per_round": 30, "rounds": 8}
    bounds = {}
    for epsilon in (4.0, 50.0):
        found = audited(data, **settings, tree={"epsilon": epsilon, "delta": 1e-5})
        assert found.epsilon is not None
        bounds[epsilon] = found.lower_bound
        assert found.lower_bound < found.epsilon
    assert bounds[50.0] > max(1, bounds[4.0])


def test_canaries_are_drawn_by_the_seed_and_their_directions_are_far_apart():
    assert [takes_part(3, client) for client in range(50)] == [takes_part(3, client) for client in range(50)]
    assert 0.4 < np.mean([takes_part(3, client) for client in range(1000)]) < 0.6
    directions = np.stack([direction(3, client, 7850).numpy() for client in range(20)])
    products = directions @ directions.T
    np.testing.assert_allclose(np.diag(products), 1, rtol=1e-5)
    assert np.abs(products - np.eye(20)).max() < 0.1


@pytest.mark.slow  # starts the program
def test_the_command_attacks_the_pipelines_training(data: FederatedData, tmp_path: Path):
    settings = {"privacy": "gaussian", "gaussian": {"epsilon": 20.0, "delta": 1e-5}, "rounds": 2, "strategy": "fedavgm"}
    more = {"sampling": "poisson", "objective": "clients", "evaluate_clients": False, "clients_per_round": CLIENTS}
    params(tmp_path, clients=CLIENTS, **settings, **more).rename(tmp_path / "params.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset").symlink_to(data.dataset)
    (tmp_path / "data/shards").symlink_to(data.clients)
    done = fedpipe("audit", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    right, proved, promised = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ of 60 guesses about 120 canaries are right", right)
    assert re.fullmatch(r"attack:   epsilon is at least [\d.]+, at delta 1e-05, with a confidence of 95%", proved)
    assert promised == "promised: epsilon 20"
    told = json.loads(fedpipe("audit", "--canaries", "0.5", "--json", folder=tmp_path).stdout)
    assert told["canaries"] == 60
    assert told["lower_bound"] < told["epsilon"] <= 20


def test_canaries_go_with_no_other_attack(data: FederatedData):
    with pytest.raises(ParameterError, match=r"^federated\.attack: sign-flip: canaries take the place of attackers"):
        audited(data, attack="sign-flip")
