"""Attacks do what their papers say, whoever computes them, and harm a mean that nothing defends."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import byzfl
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from fedpipe.data.datasets import load_to
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, attack_figures, evaluate_holdouts, holdout_rows, run
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.attacks import ATTACKS
from fedpipe.federated.attacks.alie import ALIE, z_max
from fedpipe.federated.attacks.backdoor import Backdoor
from fedpipe.federated.attacks.base import Attack, attackers
from fedpipe.federated.attacks.collusion import Collusion
from fedpipe.federated.attacks.ipm import IPM
from fedpipe.federated.attacks.label_flip import LabelFlip
from fedpipe.federated.context import ClientContext, LocalTraining, ServerContext
from fedpipe.federated.messages import Aggregate, ClientReport, Update
from fedpipe.federated.rounds import Round
from fedpipe.federated.state import ServerState
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import network_with
from fedpipe.training.evaluation import evaluate
from tests.federations import MNIST, SIZES, client_of, experiment_of, federate, first_round, same, start_of, task_of

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)
SETTING: dict[str, Any] = {"model": Logistic(), "local": SGD, "clients_per_round": 5, "rounds": 3}
HOSTILE = attackers(11, len(SIZES), 0.4)
ACTIVE = [name for name in ATTACKS if name != "none"]


def sent_by(client: int, folder: Path, states: Path, **settings: Any) -> Tensor:
    """The delta that a client sends in the first round."""
    common = client_of(
        folder, states, seed=11, architecture=Logistic().on(MNIST), local=SGD, clients_per_round=5, **settings
    )
    return common.update(first_round(start_of(Logistic())), task_of(client, epochs=1)).delta


def update(client: int, delta: Sequence[float]) -> Update:
    report = ClientReport(1, client, 10, 1, 0.0, None, None, 0, None, None)
    return Update(client, 0.25, report, torch.tensor(delta))


# Who attacks


@pytest.mark.parametrize("clients", [1, 5, 8, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.4, 1.0])
def test_so_many_clients_are_hostile_and_the_seed_says_which(clients: int, fraction: float):
    found = attackers(3, clients, fraction)
    assert len(found) == round(fraction * clients)
    assert found <= set(range(clients))
    assert found == attackers(3, clients, fraction)
    assert clients < 100 or fraction in (0.0, 1.0) or found != attackers(4, clients, fraction)


@pytest.mark.parametrize("name", ACTIVE)
def test_honest_clients_send_what_they_would_without_attackers(name: str, folder: Path, tmp_path: Path):
    for client in set(range(len(SIZES))) - HOSTILE:
        honest = sent_by(client, folder, tmp_path)
        assert torch.equal(sent_by(client, folder, tmp_path, attack=name, attackers=0.4), honest)


# What they do


@pytest.mark.parametrize(("name", "block", "factor"), [("sign-flip", {"factor": 3.0}, -3), ("scaled", {}, 10)])
def test_attackers_send_a_multiple_of_the_honest_update(
    name: str, block: dict[str, float], factor: int, folder: Path, tmp_path: Path
):
    settings: dict[str, Any] = {"attack": name, "attackers": 0.4, name: block}
    for client in HOSTILE:
        honest = sent_by(client, folder, tmp_path)
        torch.testing.assert_close(sent_by(client, folder, tmp_path, **settings), honest * factor)


def test_noise_is_normal_and_different_for_each_client_and_round(folder: Path, tmp_path: Path):
    common = client_of(
        folder, tmp_path, seed=11, architecture=Logistic().on(MNIST), local=SGD, clients_per_round=5,
        attack="gaussian-noise", attackers=0.4, **{"gaussian-noise": {"std": 0.5}},
    )  # fmt: skip
    broadcast = first_round(start_of(Logistic()))
    noises = [
        common.update(replace(broadcast, round=round), task_of(client, epochs=1)).delta
        for client in HOSTILE
        for round in (1, 2)
    ]
    for noise in noises:
        assert scipy.stats.kstest(noise.numpy(), scipy.stats.norm(scale=0.5).cdf).pvalue > 1e-4
    assert len({noise.numpy().tobytes() for noise in noises}) == 4


def test_flipped_labels_are_mirrored_and_images_stay():
    images, labels = torch.arange(10 * 16).view(10, 4, 4, 1).to(torch.uint8), torch.arange(10)
    seen, flipped = LabelFlip().poison(images, labels, 10, np.random.default_rng(0))
    assert torch.equal(seen, images)
    assert flipped.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_a_label_flipper_sends_what_it_learns_from_mirrored_labels(folder: Path, tmp_path: Path):
    """The same client with the weights of the classes in reverse order is the honest one on mirrored labels."""
    start = {name: tensor.flip(0) for name, tensor in start_of(Logistic()).items()}
    for client in HOSTILE:
        settings: dict[str, Any] = {"architecture": Logistic().on(MNIST), "local": SGD, "clients_per_round": 5}
        honest = client_of(folder, tmp_path, seed=11, **settings).update(first_round(start), task_of(client, epochs=1))
        flipped = sent_by(client, folder, tmp_path, attack="label-flip", attackers=0.4)
        weight, bias = flipped.split([7840, 10])
        mirrored = torch.cat([weight.view(10, 784).flip(0).reshape(-1), bias.flip(0)])
        torch.testing.assert_close(mirrored, honest.delta, rtol=1e-4, atol=1e-6)


def test_a_patch_is_white_in_the_corner_and_changes_nothing_else():
    images = torch.randint(0, 255, (6, 8, 7, 3), dtype=torch.uint8)
    before = images.clone()
    seen = Backdoor(patch=2).triggered(images)
    assert torch.equal(images, before)
    assert (seen[:, 6:, 5:] == 255).all()
    seen[:, 6:, 5:] = images[:, 6:, 5:]
    assert torch.equal(seen, images)


def test_patched_images_have_the_targets_label_and_others_their_own():
    images, labels = torch.randint(0, 255, (1000, 8, 8, 1), dtype=torch.uint8), torch.randint(1, 10, (1000,))
    seen, given = Backdoor(target=0, fraction=0.3).poison(images, labels, 10, np.random.default_rng(5))
    patched = given == 0
    assert torch.equal(seen[patched], Backdoor().triggered(images[patched]))
    assert torch.equal(seen[~patched], images[~patched])
    assert torch.equal(given[~patched], labels[~patched])
    assert scipy.stats.binomtest(int(patched.sum()), 1000, 0.3).pvalue > 1e-4


def test_the_success_rate_is_the_fraction_of_other_classes_taken_for_the_target():
    confusion = torch.tensor([[50, 0, 0], [30, 10, 0], [5, 5, 50]])
    assert Backdoor(target=0).success(confusion) == 35 / 100
    assert Backdoor(target=2).success(confusion) == 0


@pytest.mark.parametrize(("honest", "hostile", "z"), [(26, 24, 1.43), (16, 4, 0.16), (12, 8, 0.67), (10, 10, 1.28)])
def test_z_is_what_the_papers_formula_gives(honest: int, hostile: int, z: float):
    """50 clients of which 24 are hostile is the example of Baruch et al., whose table of Φ gives 1.43."""
    n = honest + hostile
    supporters = n // 2 + 1 - hostile
    assert z_max(honest, hostile) == pytest.approx(scipy.stats.norm.ppf((n - hostile - supporters) / (n - hostile)))
    assert z_max(honest, hostile) == pytest.approx(z, abs=0.005)


@pytest.mark.parametrize(("honest", "hostile"), [(1, 1), (1, 9), (2, 8), (3, 1), (100, 1)])
def test_z_is_finite_however_few_there_are(honest: int, hostile: int):
    assert 0 <= z_max(honest, hostile) < 3


def test_colluding_attackers_send_what_byzfl_has_them_send():
    honest, own = torch.randn(12, 50, dtype=torch.float64), torch.randn(8, 50, dtype=torch.float64)
    z = z_max(12, 8)
    deviations = -z * math.sqrt(11 / 12)  # byzfl adds multiples of the sample's standard deviation, n - 1 below it
    expected: Any = byzfl.ALittleIsEnough(tau=deviations)(honest)
    torch.testing.assert_close(ALIE().collude(honest, own), expected.double().expand_as(own), rtol=1e-5, atol=1e-6)
    expected = byzfl.InnerProductManipulation(tau=0.7)(honest)
    found = IPM(epsilon=0.7).collude(honest, own)
    torch.testing.assert_close(found, expected.double().expand_as(own), rtol=1e-5, atol=1e-6)


class Silence(Attack):
    """An attack of one's own."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta * 0)


def test_an_attack_may_be_ones_own(folder: Path, tmp_path: Path):
    assert all(not sent_by(client, folder, tmp_path, attack=Silence(), attackers=0.4).any() for client in HOSTILE)


# How they meet the aggregation


@pytest.mark.parametrize("attack", [ALIE(), IPM()], ids=["alie", "ipm"])
def test_the_aggregator_gets_honest_updates_and_what_attackers_make_of_them(attack: Attack):
    updates = [update(0, [1.0, 2.0]), update(1, [9.0, 9.0]), update(2, [3.0, 6.0]), update(3, [-9.0, 1.0])]
    aggregator: Aggregator[Any] = Collusion(aggregator=Mean(), attack=attack, hostile=frozenset({1, 3}))
    total = aggregator.empty()
    for one in updates:
        total = aggregator.add(total, one)
    found: Aggregate = aggregator.result(total, ServerContext(1, 4, 0, {}))
    honest = np.array([[1.0, 2.0], [3.0, 6.0]])
    if isinstance(attack, IPM):
        chosen = -0.5 * honest.mean(axis=0)
    else:
        chosen = honest.mean(axis=0) - z_max(2, 2) * honest.std(axis=0)
    np.testing.assert_allclose(found.delta, (honest.sum(axis=0) + 2 * chosen) / 4, rtol=1e-6)


def test_attackers_whose_choice_would_not_be_taken_send_what_would():
    """Of 3e38 times the mean, nothing is finite."""
    aggregator: Aggregator[Any] = Collusion(aggregator=Mean(), attack=IPM(epsilon=3e38), hostile=frozenset({1}))
    total = aggregator.add(aggregator.add(aggregator.empty(), update(0, [4.0, 2.0])), update(1, [8.0, 0.0]))
    assert aggregator.result(total, ServerContext(1, 2, 0, {})).delta.tolist() == [6.0, 1.0]


def test_attackers_alone_send_what_they_have():
    aggregator: Aggregator[Any] = Collusion(aggregator=Mean(), attack=IPM(), hostile=frozenset({0}))
    total = aggregator.add(aggregator.empty(), update(0, [1.0, 2.0]))
    assert aggregator.result(total, ServerContext(1, 1, 0, {})).delta.tolist() == [1.0, 2.0]


def test_attackers_leave_out_the_clipping_that_nobody_enforces(folder: Path, test: Path, tmp_path: Path):
    settings: dict[str, Any] = {"transforms": "clip", "clip": {"norm": 0.01}, "attack": "scaled", "attackers": 0.4}
    for client in range(len(SIZES)):
        norm = float(sent_by(client, folder, tmp_path, **settings).norm())
        assert norm > 1 if client in HOSTILE else norm == pytest.approx(0.01)


@pytest.mark.parametrize(("engine", "name"), [*product(["processes"], ACTIVE), ("ray", "alie"), ("ray", "backdoor")])
def test_every_engine_gives_the_same_bits(name: str, engine: Any, folder: Path, test: Path):
    setting = SETTING | {"attack": name, "attackers": 0.4, "rounds": 2, "dropout": 0.2}
    expected = federate(folder, test, **setting)[-1]
    found = federate(folder, test, compute=Compute(engine=engine, workers=2, device="cpu"), **setting)[-1]
    assert same(found[0].parameters, expected[0].parameters)
    assert found[1].row() == expected[1].row()


@pytest.mark.parametrize("name", ACTIVE)
def test_a_run_goes_on_exactly_under_attack(name: str, folder: Path, test: Path):
    setting = SETTING | {"attack": name, "attackers": 0.4}
    whole = federate(folder, test, **setting)
    rest = federate(folder, test, state=whole[0][0], **setting)
    assert same(whole[-1][0].parameters, rest[-1][0].parameters)
    assert whole[-1][1].row() == rest[-1][1].row()


# What the reports say


def accuracies(rounds: list[tuple[ServerState, Round]]) -> list[float]:
    return [round.test.accuracy for _, round in rounds if round.test]


HARMFUL = [("sign-flip", {}), ("ipm", {"epsilon": 4.0}), ("gaussian-noise", {"std": 1.0})]


@pytest.mark.parametrize(("name", "block"), HARMFUL)
def test_attacks_harm_a_mean_that_nothing_defends(name: str, block: Any, folder: Path, test: Path):
    clean = accuracies(federate(folder, test, **SETTING))
    attacked = accuracies(federate(folder, test, **SETTING, attack=name, attackers=0.4, **{name: block}))
    assert attacked[-1] < clean[-1] - 0.2


def test_a_backdoor_is_learned_beside_the_task_and_its_success_is_measured(folder: Path, test: Path):
    setting: dict[str, Any] = SETTING | {"local": LocalTraining(epochs=5, batch_size=10, optimizer="sgd", lr=0.05)}
    backdoor: dict[str, Any] = {"attack": "backdoor", "backdoor": {"target": 3}}
    clean, attacked = (federate(folder, test, **setting, **backdoor, attackers=fraction)[-1] for fraction in (0.0, 0.4))
    for state, round in (clean, attacked):
        examples = load_to(torch.device("cpu"), test)
        network = network_with(Logistic().on(MNIST), state.parameters)
        others = examples.labels != 3
        patched = Backdoor(target=3).triggered(examples.images[others])
        found = evaluate(network, patched, examples.labels[others], MNIST).confusion[:, 3].sum() / others.sum()
        assert round.row()["backdoor_success"] == pytest.approx(float(found))
    assert clean[1].row()["backdoor_success"] < 0.2
    assert attacked[1].row()["backdoor_success"] > 0.6
    assert attacked[1].row()["test_accuracy"] > clean[1].row()["test_accuracy"] - 0.1


def test_reports_tell_who_attacks_and_how_the_others_fare(folder: Path, test: Path):
    experiment = experiment_of(**SETTING, attack="label-flip", attackers=0.4)
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment, data)
    for row, round in zip(result.round_rows(), result.history, strict=True):
        assert row["hostile"] == " ".join(map(str, sorted(HOSTILE)))
        honest = [report.accuracy for report in round.clients if report.client not in HOSTILE]
        assert row["honest_accuracy"] == pytest.approx(np.mean(np.array(honest, dtype=float)))
        assert row["backdoor_success"] is None
    assert {row["client"] for row in result.client_rows() if row["hostile"]} == HOSTILE
    holdouts = evaluate_holdouts(experiment, data, result.state.parameters)
    assert {row["client"] for row in holdout_rows(experiment, holdouts) if row["hostile"]} == HOSTILE
    told = [replace(report, accuracy=report.client / 10) for report in holdouts]
    expected = np.mean([client / 10 for client in range(len(SIZES)) if client not in HOSTILE])
    assert attack_figures(experiment, told) == {"attackers": 2, "honest_accuracy": pytest.approx(expected)}
    assert attack_figures(experiment, holdouts) == {"attackers": 2, "honest_accuracy": None}


def test_without_attack_reports_have_nothing_of_it(folder: Path, test: Path):
    setting: dict[str, Any] = SETTING | {"rounds": 1}
    experiment = experiment_of(**setting)
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment, data)
    assert "hostile" not in result.round_rows()[0] | result.client_rows()[0]
    holdouts = evaluate_holdouts(experiment, data, result.state.parameters)
    assert "hostile" not in holdout_rows(experiment, holdouts)[0]
    assert attack_figures(experiment, holdouts) == {}
