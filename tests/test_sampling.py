"""Who takes part in a round: cohorts, failures, stragglers, early stopping; what the mean over a cohort estimates."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.sampling import Sampling
from fedpipe.models.logistic import Logistic
from tests.federations import SIZES, federate, same

EPOCHS = 5
SAMPLINGS = ["uniform", "size", "poisson", "shuffled"]
OBJECTIVES = ["examples", "clients"]
sizes_and_cohort = st.lists(st.integers(1, 1000), min_size=1, max_size=60).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(1, len(sizes)))
)


def sampling_of(**settings: object) -> Sampling:
    return Sampling.model_validate(settings)


def drawn_often(rounds: int, sizes: list[int], **settings: object) -> list[tuple[int, ...]]:
    """Return the clients of each of the rounds."""
    sampling = sampling_of(**settings)
    return [sampling.draw(sizes, EPOCHS, 3, round).drawn for round in range(rounds)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@given(drawn=sizes_and_cohort, seed=st.integers(0, 10**6))
def test_a_cohort_has_different_clients_in_ascending_order(sampling: str, drawn: tuple[list[int], int], seed: int):
    sizes, size = drawn
    cohort = sampling_of(sampling=sampling, clients_per_round=size).draw(sizes, EPOCHS, seed, 1).drawn
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= set(range(len(sizes)))
    if sampling in ("uniform", "shuffled"):
        assert len(cohort) == size
    if sampling == "size":
        assert 1 <= len(cohort) <= size


def test_uniform_cohorts_are_drawn_anew_and_each_client_is_equally_likely():
    """4 of 8 clients over 2,000 rounds: each is expected 1,000 times, standard deviation 22."""
    cohorts = drawn_often(2000, [7] * 8, clients_per_round=4)
    counts = np.bincount(np.concatenate(cohorts), minlength=8)
    assert abs(counts - 1000).max() < 5 * 22
    assert len(set(cohorts)) == 70  # every one of the 8-choose-4 occurs


def test_with_sampling_by_size_a_client_is_drawn_in_proportion_to_its_examples():
    """One draw a round, 4,000 rounds: client k with probability n_k / n."""
    sizes = [1, 2, 3, 4]
    counts = np.bincount(np.concatenate(drawn_often(4000, sizes, clients_per_round=1, sampling="size")))
    np.testing.assert_allclose(counts, [400, 800, 1200, 1600], atol=5 * 31)


def test_poisson_draws_each_client_independently():
    """Of 10 clients with probability 0.3: 3 a round on average, binomially distributed."""
    cohorts = drawn_often(4000, [7] * 10, clients_per_round=3, sampling="poisson")
    counts = np.array(list(map(len, cohorts)))
    assert counts.mean() == pytest.approx(3, abs=5 * np.sqrt(2.1 / 4000))
    assert counts.var() == pytest.approx(2.1, rel=0.15)
    assert counts.min() == 0  # such a round is skipped
    assert np.bincount([client for cohort in cohorts for client in cohort]).std() < 5 * np.sqrt(4000 * 0.21)


@given(drawn=sizes_and_cohort, seed=st.integers(0, 10**6), epoch=st.integers(0, 50))
def test_shuffled_cohorts_of_an_epoch_have_no_client_twice_and_leave_out_fewer_than_a_cohort(
    drawn: tuple[list[int], int], seed: int, epoch: int
):
    sizes, size = drawn
    rounds, sampling = len(sizes) // size, sampling_of(sampling="shuffled", clients_per_round=size)
    cohorts = [sampling.draw(sizes, EPOCHS, seed, epoch * rounds + one + 1).drawn for one in range(rounds)]
    clients = [client for cohort in cohorts for client in cohort]
    assert len(clients) == len(set(clients)) == rounds * size > len(sizes) - size


def test_shuffled_clients_come_in_another_order_each_epoch():
    """Two of 8 clients a round, over 1,000 epochs of 4 rounds: each pair is in the first round as often as others."""
    sampling = sampling_of(sampling="shuffled", clients_per_round=2)
    firsts = [sampling.draw([7] * 8, EPOCHS, 3, 4 * epoch + 1).drawn for epoch in range(2800)]
    assert len(set(firsts)) == 28
    counts = np.array([firsts.count(pair) for pair in set(firsts)])
    assert abs(counts - 100).max() < 5 * 10


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=60))
def test_the_weights_of_all_clients_in_the_objective_are_their_parts_of_it(sizes: list[int]):
    by_examples, by_clients = (sampling_of(objective=objective).client_weights(sizes) for objective in OBJECTIVES)
    assert by_examples.tolist() == [n / sum(sizes) for n in sizes]
    assert by_clients.tolist() == [1 / len(sizes)] * len(sizes)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_average_clients_weigh_in_cohorts_what_they_do_in_the_objective(sampling: str, objective: str):
    """The expected weight of client k's update, 0 where it is not drawn, is in proportion to p_k."""
    sizes, rounds = np.array([10, 20, 30, 40, 100]), 4000
    settings = sampling_of(sampling=sampling, objective=objective, clients_per_round=2)
    weights = np.zeros((rounds, 5))
    for place in range(rounds):
        for member in settings.draw(sizes, EPOCHS, 1, place + 1).invited:
            weights[place, member.client] = member.weight
    p = sizes / 200 if objective == "examples" else np.full(5, 1 / 5)
    expected = p * weights.sum(axis=1).mean()
    assert (np.abs(weights.mean(axis=0) - expected) < 5 * weights.std(axis=0) / np.sqrt(rounds)).all()


@given(drawn=sizes_and_cohort, sampling=st.sampled_from(SAMPLINGS), round=st.integers(1, 100))
def test_the_objective_changes_weights_and_not_who_is_drawn(drawn: tuple[list[int], int], sampling: str, round: int):
    """A client's weight for `clients` is that for `examples` divided by its number of examples."""
    sizes, size = drawn
    by_examples, by_clients = (
        sampling_of(sampling=sampling, objective=objective, clients_per_round=size).draw(sizes, EPOCHS, 3, round)
        for objective in OBJECTIVES
    )
    assert by_examples.drawn == by_clients.drawn
    for one, other in zip(by_examples.members, by_clients.members, strict=True):
        assert other.weight == one.weight / sizes[one.client]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_mean_over_a_cohort_estimates_the_mean_over_all_examples(sampling: str):
    """Averaged over rounds, Σ_k w_k x_k / Σ_k w_k is Σ_k (n_k / n) x_k: exactly with size, and nearly with the others,
    whose denominator varies."""
    sizes, x = np.array([10, 20, 30, 40, 100]), np.array([5.0, -1.0, 2.0, 8.0, 1.0])
    settings = sampling_of(sampling=sampling, clients_per_round=3)
    means = []
    for round in range(1, 6001):
        members = settings.draw(sizes, EPOCHS, 1, round).members
        if members:
            means.append(np.average(x[[m.client for m in members]], weights=[m.weight for m in members]))
    tolerance = 5 * np.std(means) / np.sqrt(len(means))
    assert np.mean(means) == pytest.approx(np.average(x, weights=sizes), abs=tolerance + (sampling != "size") * 0.25)


@pytest.mark.parametrize("sampling", ["uniform", "poisson", "shuffled"])
def test_the_mean_over_a_cohort_estimates_the_mean_over_all_clients(sampling: str):
    """With equal weights it does so exactly: given its size, a cohort is any of this size, equally likely."""
    sizes, x = np.array([10, 20, 30, 40, 100]), np.array([5.0, -1.0, 2.0, 8.0, 1.0])
    settings = sampling_of(sampling=sampling, objective="clients", clients_per_round=3)
    cohorts = [settings.draw(sizes, EPOCHS, 1, round).members for round in range(1, 6001)]
    means = [
        np.average(x[[m.client for m in members]], weights=[m.weight for m in members])
        for members in cohorts
        if members
    ]
    assert np.mean(means) == pytest.approx(x.mean(), abs=5 * np.std(means) / np.sqrt(len(means)))


def test_a_client_fails_with_the_probability_of_dropout():
    sampling = sampling_of(clients_per_round=5, dropout=0.3)
    cohorts = [sampling.draw([7] * 5, EPOCHS, 3, round) for round in range(2000)]
    assert all(set(c.dropped) | {m.client for m in c.members} == set(c.drawn) for c in cohorts)
    dropped = np.mean([len(c.dropped) for c in cohorts]) / 5
    assert dropped == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 10_000))


def test_a_straggler_trains_fewer_epochs_each_number_equally_likely():
    sampling = sampling_of(clients_per_round=5, stragglers=0.4)
    epochs = [m.epochs for round in range(2000) for m in sampling.draw([7] * 5, EPOCHS, 3, round).members]
    counts = np.bincount(epochs, minlength=6)
    np.testing.assert_allclose(counts, [0, 1000, 1000, 1000, 1000, 6000], atol=5 * 49)


def test_failures_change_neither_who_is_drawn_nor_how_others_train():
    """Draws are addressed: another probability of one event leaves every other draw as it was."""
    plain, failing = sampling_of(clients_per_round=4), sampling_of(clients_per_round=4, dropout=0.5)
    for round in range(50):
        one, other = (sampling.draw([7] * 8, EPOCHS, 3, round) for sampling in (plain, failing))
        assert one.drawn == other.drawn
        assert set(other.members) <= set(one.members)


# In a federation


def test_a_client_that_drops_out_returns_no_update(folder: Path, test: Path):
    """The round is made of the others' updates; nothing else was lost or refused."""
    rounds = federate(folder, test, rounds=1, clients_per_round=5, dropout=0.4, seed=12)
    [(state, round)] = rounds
    assert 0 < len(round.cohort.dropped) < 5
    row = round.row()
    assert row["cohort"] == "0 1 2 3 4"
    assert row["lost"] == row["refused"] == ""
    returned = [client for client in range(5) if str(client) not in row["dropped"].split()]
    assert [report.client for report in round.clients] == returned
    assert row["examples"] == sum(SIZES[client] for client in returned)
    assert not same(state.parameters, federate(folder, test, rounds=1, clients_per_round=5, seed=12)[0][0].parameters)


def test_examples_processed_count_the_epochs_that_stragglers_did(folder: Path, test: Path):
    local = LocalTraining(epochs=4, batch_size=32, optimizer="sgd", lr=0.01)
    [(_, round)] = federate(folder, test, rounds=1, clients_per_round=5, stragglers=0.6, local=local)
    epochs = [report.epochs for report in round.clients]
    assert min(epochs) < 4
    assert round.examples_processed == sum(n * e for n, e in zip(SIZES, epochs, strict=True))


def test_with_sampling_by_size_a_client_drawn_twice_counts_twice(folder: Path, test: Path):
    for _, round in federate(folder, test, rounds=5, clients_per_round=5, sampling="size"):
        assert sum(member.weight for member in round.cohort.members) == 5


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_training_loss_of_a_round_is_the_mean_of_its_clients_weighted_as_their_updates_are(
    sampling: str, objective: str, folder: Path, test: Path
):
    local = LocalTraining(epochs=1, batch_size=None, optimizer="sgd", lr=0.05)
    setting: dict[str, Any] = {"sampling": sampling, "objective": objective, "clients_per_round": 5, "dropout": 0.3}
    for _, round in federate(folder, test, rounds=3, model=Logistic(), local=local, **setting):
        weights = {member.client: member.weight for member in round.cohort.members}
        losses = {report.client: report.train_loss or 0.0 for report in round.clients}
        assert set(weights) == set(losses)
        expected = np.average([losses[client] for client in weights], weights=[*weights.values()]) if weights else None
        assert round.row()["train_loss"] == (expected and pytest.approx(expected))


@pytest.mark.parametrize("target", [0.3, 0.999])
def test_training_stops_at_the_target_accuracy(target: float, folder: Path, test: Path):
    rounds = [round for _, round in federate(folder, test, rounds=4, clients_per_round=5, target_accuracy=target)]
    accuracies = [round.row()["test_accuracy"] for round in rounds]
    assert all(accuracy < target for accuracy in accuracies[:-1])
    assert accuracies[-1] >= target or len(rounds) == 4


def test_training_stops_when_the_loss_has_not_improved_for_patience_evaluations(folder: Path, test: Path):
    """The learning rate is one at which the loss soon gets worse. Evaluations count, not rounds."""
    for every, patience in product((1, 2), (1, 2)):
        local = LocalTraining(epochs=1, batch_size=32, optimizer="adam", lr=0.1)
        rounds = federate(
            folder, test, rounds=30, local=local, patience=patience, evaluate_every=every, evaluate_clients=False
        )
        losses = [round.test.loss for _, round in rounds if round.test]
        assert len(rounds) < 30
        best = int(np.argmin(losses))
        assert len(losses) - 1 - best == patience
        assert rounds[-1][1].test is not None


def test_a_run_that_stopped_early_does_not_go_on(folder: Path, test: Path):
    state = federate(folder, test, rounds=4, clients_per_round=5, target_accuracy=0.3)[-1][0]
    assert federate(folder, test, rounds=4, clients_per_round=5, target_accuracy=0.3, state=state) == []


def test_the_learning_rate_decays_over_rounds(folder: Path, test: Path):
    local = LocalTraining(lr=0.1, lr_decay=0.5)
    assert [local.in_round(number).lr for number in (1, 2, 3)] == [0.1, 0.05, 0.025]
    plain, decaying = (
        federate(folder, test, rounds=2, local=LocalTraining(epochs=1, batch_size=32, lr=0.001, lr_decay=decay))
        for decay in (1.0, 0.1)
    )
    assert same(plain[0][0].parameters, decaying[0][0].parameters)
    assert not same(plain[1][0].parameters, decaying[1][0].parameters)


def test_a_client_is_tested_on_the_examples_it_holds_out(sample: Dataset, test: Path, tmp_path: Path):
    """It is tested before and after it trains, and these examples count for nothing else."""
    order = np.arange(600)
    assignment, held_out = np.split(order[:400], 4), np.split(order[400:], 4)
    store.write(tmp_path / "with", sample.train.images, sample.train.labels, assignment, 10, held_out=held_out)
    store.write(tmp_path / "without", sample.train.images, sample.train.labels, assignment, 10)
    (state, round), (other, without) = (federate(tmp_path / name, test, rounds=3)[-1] for name in ("with", "without"))
    assert same(state.parameters, other.parameters)
    for report in round.clients:
        assert (report.examples, report.held_out) == (100, 50)
        assert report.holdout_accuracy is not None
        assert report.holdout_accuracy_before is not None
        assert report.holdout_accuracy != report.accuracy
    assert {(r.held_out, r.holdout_accuracy, r.holdout_accuracy_before) for r in without.clients} == {(0, None, None)}
