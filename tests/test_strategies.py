"""Laws of the strategies, each against its paper: transcribed anew in NumPy, or a case in which the answer is known.

`every` strategy of the table is held to the laws that all share; a new one is, as soon as it is there.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.data.store import open_store
from fedpipe.engines import Compute
from fedpipe.federated.context import ClientContext, LocalResult, LocalTraining
from fedpipe.federated.messages import Aggregate, Broadcast, ClientReport, Task, Update
from fedpipe.federated.rounds import Round
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ClientStates, ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.federated.strategies.base import Strategy
from fedpipe.federated.strategies.fedavg import FedAvg
from fedpipe.federated.strategies.fedavgm import FedAvgM
from fedpipe.federated.strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from fedpipe.federated.strategies.fedprox import FedProx
from fedpipe.federated.strategies.fedsgd import FedSGD
from fedpipe.federated.strategies.qfedavg import QFedAvg
from fedpipe.models.base import Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import flat, network_with, parameters_of
from fedpipe.spec import DataSpec
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.images import normalised
from fedpipe.training.loop import GradientFunction, loss_and_gradients, train
from tests.federations import MNIST, SIZES, client_of, federate, p_of, same, start_of, task_of, weights_of

every = pytest.mark.parametrize("strategy", STRATEGIES)
each_objective = pytest.mark.parametrize("objective", ["examples", "clients"])
SGD = LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.05)
STATEFUL = [name for name, kind in STRATEGIES.items() if kind.has_client_state]
SUMMED = {"scaffold": "control", "feddyn": "h"}  # what the server remembers of the sum of its clients' states


class Normalised(Model):
    """A small network with BatchNorm, whose statistics are buffers: mean, variance, and a count, a whole number."""

    def build(self, spec: DataSpec) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, spec.classes)
        )


def weights(state: ServerState) -> np.ndarray:
    """(d,) float64."""
    return flat(state.parameters.values()).double().numpy()


# Laws of all


@every
@pytest.mark.slow
def test_every_strategy_learns(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """fedsgd, a step a round, more slowly than others. With lr 0.05 SCAFFOLD diverges in the tenth round: clients of 4
    and of 16 steps have controls of different scale, and its theory wants lr in proportion to 1 / steps."""
    local = LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.02)
    results = [
        round.row()["test_accuracy"]
        for _, round in federate(
            folder,
            test,
            strategy=strategy,
            rounds=10,
            clients_per_round=5,
            local=local,
            states=tmp_path,
            evaluate_every=10,
            evaluate_clients=False,
        )
    ]
    assert results[-1] > (0.3 if strategy == "fedsgd" else 0.6)


@every
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.slow
def test_every_strategy_gives_the_same_bits_whatever_the_engine(
    strategy: str, optimizer: str, folder: Path, test: Path, tmp_path: Path
):
    local = LocalTraining.model_validate({"epochs": 2, "batch_size": 32, "optimizer": optimizer, "lr": 0.001})
    results = []
    for engine, workers in (("threads", 1), ("processes", 3)):
        compute = Compute.model_validate({"engine": engine, "workers": workers, "device": "cpu"})
        states = tmp_path / engine
        results.append(
            federate(folder, test, strategy=strategy, model=Normalised(), compute=compute, states=states, local=local)
        )
    for (one, a), (other, b) in zip(*results, strict=True):
        assert same(one.parameters, other.parameters)
        assert a.clients == b.clients
        assert {name: tensor.tolist() for name, tensor in one.strategy.items()} == {
            name: tensor.tolist() for name, tensor in other.strategy.items()
        }


@pytest.mark.parametrize("strategy", STATEFUL)
def test_clients_states_are_the_same_on_ray(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Its workers run in another folder."""
    one, other = (
        federate(
            folder, test, strategy=strategy, model=Logistic(), local=SGD, states=tmp_path / engine,
            compute=Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu"}),
        )[-1][0]
        for engine in ("threads", "ray")
    )  # fmt: skip
    assert same(one.parameters, other.parameters)
    for client, round in one.last_rounds.items():
        states = [ClientStates(tmp_path / engine).read(client, round) for engine in ("threads", "ray")]
        assert {part: sorted(state) for part, state in states[0].items()} == {
            part: sorted(state) for part, state in states[1].items()
        }
        assert all(same(state, states[1][part]) for part, state in states[0].items())


@every
def test_every_strategy_goes_on_from_a_round_exactly(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Also if the run was cut off after half of the next round's clients had written their new state."""
    setting: dict[str, Any] = {"strategy": strategy, "rounds": 4, "local": SGD, "model": Normalised()}
    whole = federate(folder, test, states=tmp_path / "whole", **setting)
    part = federate(folder, test, states=tmp_path / "part", stop=2, **setting)
    rest = federate(folder, test, states=tmp_path / "part", state=part[-1][0], **setting)
    assert [round.number for _, round in rest] == [3, 4]
    assert same(whole[-1][0].parameters, rest[-1][0].parameters)
    assert whole[-1][1].row() == rest[-1][1].row()


@every
def test_who_is_called_which_number_changes_nothing(strategy: str, sample: Dataset, test: Path, tmp_path: Path):
    """Clients permuted, all taking part with whole-shard batches: the same model, to the rounding of another order."""
    order = generator(1, "test").permutation(len(sample.train))[: sum(SIZES)]
    assignment = np.split(order, np.cumsum(SIZES)[:-1])
    models = []
    for permutation in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        folder = tmp_path / "-".join(map(str, permutation))
        store.write(
            folder / "shards", sample.train.images, sample.train.labels, [assignment[i] for i in permutation], 10
        )
        local = LocalTraining(epochs=3, batch_size=None, optimizer="sgd", lr=0.05)
        rounds = federate(
            folder / "shards", test, strategy=strategy, model=Logistic(), clients_per_round=5, local=local,
            states=folder / "states",
        )  # fmt: skip
        models.append(weights(rounds[-1][0]))
    np.testing.assert_allclose(models[0], models[1], atol=1e-5)


@every
def test_a_skipped_round_changes_nothing(strategy: str, folder: Path, test: Path, tmp_path: Path):
    rounds = federate(
        folder, test, strategy=strategy, rounds=8, clients_per_round=5, dropout=0.5, min_updates=3, local=SGD,
        model=Logistic(), states=tmp_path,
    )  # fmt: skip
    before = ServerState(0, start_of(Logistic()))
    skipped = 0
    for after, round in rounds:
        returned = 5 - len(round.cohort.dropped)
        assert round.skipped == (returned < 3)
        if round.skipped:
            skipped += 1
            assert same(before.parameters, after.parameters)
            assert before.strategy == after.strategy
            assert before.last_rounds == after.last_rounds
            row = round.row()
            assert (row["skipped"], row["examples"], row["train_loss"]) == (1, 0, None)
            assert round.returned == returned
            assert (row["bytes_up"] > 0) == (returned > 0)  # sent, if in vain
        else:
            assert not same(before.parameters, after.parameters)
        before = after
    assert 0 < skipped < 8


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "fedbn"])  # there they stay with clients
def test_buffers_are_averaged_by_examples(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """BatchNorm's statistics, whatever the strategy does with the weights; a count stays a whole number."""
    torch.set_num_threads(1)
    start = start_of(Normalised())
    # One step: the statistics of w_t, which no strategy changes.
    local = LocalTraining(epochs=1, batch_size=None, optimizer="sgd", lr=0.05)
    [(state, round)] = federate(
        folder, test, strategy=strategy, model=Normalised(), rounds=1, local=local, states=tmp_path
    )
    cohort = [report.client for report in round.clients]
    clients = []
    for client in cohort:
        network = network_with(Normalised().on(MNIST), start)
        images, labels = open_store(folder).examples(client)
        list(train(network, images, labels, MNIST, local, generator(11, "batches", round=1, client=client)))
        clients.append(parameters_of(network))
    for name in ("1.running_mean", "1.running_var"):
        expected = np.average([c[name].numpy() for c in clients], axis=0, weights=[SIZES[client] for client in cohort])
        np.testing.assert_allclose(state.parameters[name], expected, rtol=1e-5)
        assert not torch.equal(state.parameters[name], start[name])
    assert state.parameters["1.num_batches_tracked"].item() == 1
    assert state.parameters["1.num_batches_tracked"].dtype == torch.int64


def test_a_count_of_clients_that_differ_is_averaged_and_rounded(folder: Path, test: Path):
    """Batches of 32: 4, 2, 8, 2 and 5 of them a client, by 100, 40, 250, 60 and 150 examples."""
    local = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.01)
    [(state, _)] = federate(folder, test, model=Normalised(), rounds=1, clients_per_round=5, local=local)
    mean = (100 * 4 + 40 * 2 + 250 * 8 + 60 * 2 + 150 * 5) / 600
    assert state.parameters["1.num_batches_tracked"].item() == round(mean) == 6
    [(state, _)] = federate(
        folder, test, model=Normalised(), rounds=1, clients_per_round=5, local=local, objective="clients"
    )
    assert state.parameters["1.num_batches_tracked"].item() == round((4 + 2 + 8 + 2 + 5) / 5) == 4


# Federated optimisation transcribed: logistic regression, whose gradient anybody can write down, in float64


class Transcription:
    """A federation of logistic regressions with the batches that ours take."""

    def __init__(self, folder: Path, local: LocalTraining, seed: int = 11) -> None:
        self.local, self.seed = local, seed
        self.data = []
        for client in range(len(open_store(folder))):
            images, labels = open_store(folder).examples(client)
            self.data.append((normalised(images, MNIST).flatten(1).double().numpy(), labels.numpy()))
        self.start = flat(start_of(Logistic(), seed).values()).double().numpy()

    def loss_and_gradient(
        self, w: np.ndarray, k: int, batch: slice | np.ndarray = slice(None)
    ) -> tuple[float, np.ndarray]:
        x, y = self.data[k][0][batch], self.data[k][1][batch]
        logits = x @ w[:7840].reshape(10, 784).T + w[7840:]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        p[np.arange(len(y)), y] -= 1
        return loss, np.concatenate([(p.T @ x / len(y)).ravel(), p.mean(axis=0)])

    def client(
        self, k: int, round: int, w: np.ndarray, direction: Callable[[np.ndarray, np.ndarray], np.ndarray], epochs: int
    ) -> tuple[np.ndarray, int]:
        """SGD along direction(g, w); the model and the number of steps."""
        rng, n, steps = generator(self.seed, "batches", round=round, client=k), len(self.data[k][1]), 0
        for _ in range(epochs):
            order = rng.permutation(n)
            size = self.local.batch_size or n
            for at in range(0, n, size):
                w = w - self.local.lr * direction(self.loss_and_gradient(w, k, order[at : at + size])[1], w)
                steps += 1
        return w, steps

    def client_by_batch(
        self, k: int, round: int, w: np.ndarray,
        direction: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], epochs: int,
    ) -> np.ndarray:  # fmt: skip
        """SGD along direction(g, w, batch); the model."""
        rng, n = generator(self.seed, "batches", round=round, client=k), len(self.data[k][1])
        for _ in range(epochs):
            order = rng.permutation(n)
            for at in range(0, n, self.local.batch_size or n):
                batch = order[at : at + (self.local.batch_size or n)]
                w = w - self.local.lr * direction(self.loss_and_gradient(w, k, batch)[1], w, batch)
        return w


Transcribed = Callable[[Transcription, list[Round]], Iterator[np.ndarray]]


def compare(folder: Path, test: Path, states: Path, strategy: str, transcribed: Transcribed, **settings: Any) -> None:
    """Our model after each round beside the transcription's."""
    local = settings.pop("local", SGD)
    rounds = federate(
        folder, test, strategy=strategy, model=Logistic(), local=local, states=states, rounds=4, **settings
    )
    expected = list(transcribed(Transcription(folder, local), [round for _, round in rounds]))
    for (state, _), w in zip(rounds, expected, strict=True):
        np.testing.assert_allclose(weights(state), w, atol=2e-5)
    moved = np.abs(expected[-1] - Transcription(folder, local).start).max()
    assert moved > 0.005  # so that the tolerance is small beside what is compared


def cohort_of(round: Round) -> list[int]:
    return [report.client for report in round.clients]


@each_objective
def test_fedavg_is_mcmahans_algorithm_1(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            models = [federation.client(k, round.number, w, lambda g, _: g, 2)[0] for k in cohort_of(round)]
            w = np.average(models, axis=0, weights=weights_of(cohort_of(round), objective))
            yield w

    compare(folder, test, tmp_path, "fedavg", transcribed, objective=objective)


@each_objective
def test_fedsgd_is_a_gradient_step_on_all_examples_of_the_cohort(
    objective: str, folder: Path, test: Path, tmp_path: Path
):
    """McMahan et al. 2017, section 2; whatever federated.local says of epochs and batches."""

    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            gradients = [federation.loss_and_gradient(w, k)[1] for k in cohort_of(round)]
            w = w - 0.05 * np.average(gradients, axis=0, weights=weights_of(cohort_of(round), objective))
            yield w

    compare(folder, test, tmp_path, "fedsgd", transcribed, objective=objective)


@each_objective
def test_fedprox_is_lis_algorithm_2(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            models = [
                federation.client(k, round.number, w, lambda g, v, w=w: g + 0.7 * (v - w), 2)[0]
                for k in cohort_of(round)
            ]
            w = np.average(models, axis=0, weights=weights_of(cohort_of(round), objective))
            yield w

    compare(folder, test, tmp_path, "fedprox", transcribed, objective=objective, block={"mu": 0.7})


@each_objective
def test_scaffold_is_karimireddys_algorithm_1_with_option_ii(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        x, c, c_k = federation.start, np.zeros(7850), np.zeros((5, 7850))
        for round in rounds:
            deltas, changes, cohort = [], np.zeros(7850), cohort_of(round)
            for k in cohort:
                y, K = federation.client(k, round.number, x, lambda g, _, k=k, c=c: g - c_k[k] + c, 2)
                c_new = c_k[k] - c + (x - y) / (K * 0.05)
                deltas.append(y - x)
                changes += p_of(objective)[k] * (c_new - c_k[k])
                c_k[k] = c_new
            x = x + 1.5 * np.average(deltas, axis=0, weights=weights_of(cohort, objective))
            c = c + changes
            yield x

    compare(folder, test, tmp_path, "scaffold", transcribed, objective=objective, block={"lr": 1.5})


@each_objective
def test_fednova_is_wangs_equation_8_with_stragglers(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            n = weights_of(cohort_of(round), objective)
            directions, taus = [], []
            for report in round.clients:
                model, tau = federation.client(report.client, round.number, w, lambda g, _: g, report.epochs)
                directions.append((w - model) / (0.05 * tau))
                taus.append(tau)
            w = w - np.average(taus, weights=n) * 0.05 * np.average(directions, axis=0, weights=n)
            yield w

    local = LocalTraining(epochs=4, batch_size=32, optimizer="sgd", lr=0.05)
    compare(folder, test, tmp_path, "fednova", transcribed, objective=objective, local=local, stragglers=0.5)


@each_objective
def test_feddyn_is_acars_algorithm_1(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        theta, h, gradients = federation.start, np.zeros(7850), np.zeros((5, 7850))
        for round in rounds:
            models, cohort = [], cohort_of(round)
            for k in cohort:
                model, _ = federation.client(
                    k, round.number, theta, lambda g, v, k=k, t=theta: g - gradients[k] + 0.3 * (v - t), 2
                )
                gradients[k] -= 0.3 * (model - theta)
                h = h - 0.3 * p_of(objective)[k] * (model - theta)
                models.append(model)
            theta = np.average(models, axis=0, weights=weights_of(cohort, objective)) - h / 0.3
            yield theta

    compare(folder, test, tmp_path, "feddyn", transcribed, objective=objective, block={"alpha": 0.3})


@each_objective
def test_q_fedavg_is_lis_algorithm_2(objective: str, folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w, q, L = federation.start, 2.0, 1 / 0.05
        for round in rounds:
            numerator, denominator = np.zeros(7850), 0.0
            for k in cohort_of(round):
                loss, _ = federation.loss_and_gradient(w, k)
                model, _ = federation.client(k, round.number, w, lambda g, _: g, 2)
                step = L * (w - model)
                numerator += p_of(objective)[k] * loss**q * step
                denominator += p_of(objective)[k] * (q * loss ** (q - 1) * step @ step + L * loss**q)
            w = w - numerator / denominator
            yield w

    compare(folder, test, tmp_path, "q-fedavg", transcribed, objective=objective, block={"q": 2.0})


@each_objective
def test_one_full_step_of_everybody_is_gradient_descent_on_the_objective(objective: str, folder: Path, test: Path):
    """FedAvg and FedSGD then are the same, w ← w - lr ∇F(w), with F = Σ_k (n_k / n) F_k or 1 / N Σ_k F_k."""
    local = LocalTraining(epochs=1, batch_size=None, optimizer="sgd", lr=0.05)
    federation = Transcription(folder, local)
    for strategy in ("fedavg", "fedsgd"):
        rounds = federate(
            folder, test, strategy=strategy, model=Logistic(), local=local, clients_per_round=5, rounds=3,
            objective=objective,
        )  # fmt: skip
        w = federation.start
        for state, _ in rounds:
            gradients = [federation.loss_and_gradient(w, k)[1] for k in range(5)]
            gradient = np.mean(gradients, axis=0) if objective == "clients" else np.dot(SIZES, gradients) / sum(SIZES)
            w = w - 0.05 * gradient
            np.testing.assert_allclose(weights(state), w, atol=1e-5)
    assert np.abs(w - federation.start).max() > 0.005


@every
def test_with_clients_of_one_size_both_objectives_are_the_same_to_the_last_bit(
    strategy: str, sample: Dataset, test: Path, tmp_path: Path
):
    assignment = np.split(generator(2, "test").permutation(len(sample.train))[:500], 5)
    store.write(tmp_path / "shards", sample.train.images, sample.train.labels, assignment, 10)
    one, other = (
        federate(
            tmp_path / "shards",
            test,
            strategy=strategy,
            objective=objective,
            model=Logistic(),
            local=SGD,
            rounds=2,
            states=tmp_path / objective,
        )
        for objective in ("examples", "clients")
    )
    for (a, first), (b, second) in zip(one, other, strict=True):
        assert same(a.parameters, b.parameters)
        assert same(a.strategy, b.strategy)
        assert first.row() == second.row()


# Clipping: of gradients, before a strategy adds anything to them

CLIPPED = LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.05, clip_norm=0.5)


def clipped(g: np.ndarray) -> np.ndarray:
    return g * min(1.0, 0.5 / np.linalg.norm(g))


def test_fedproxs_pull_is_added_to_the_clipped_gradient(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            models = [
                federation.client(k, round.number, w, lambda g, v, w=w: clipped(g) + 3.0 * (v - w), 2)[0]
                for k in cohort_of(round)
            ]
            w = np.average(models, axis=0, weights=weights_of(cohort_of(round)))
            yield w

    compare(folder, test, tmp_path, "fedprox", transcribed, block={"mu": 3.0}, local=CLIPPED)


def test_scaffolds_controls_are_means_of_clipped_gradients_and_correct_them_whole(
    folder: Path, test: Path, tmp_path: Path
):
    """So none is longer than the limit, and no corrected step than three times the limit."""

    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        x, c, c_k = federation.start, np.zeros(7850), np.zeros((5, 7850))
        for round in rounds:
            deltas, changes, cohort = [], np.zeros(7850), cohort_of(round)
            for k in cohort:
                y, K = federation.client(k, round.number, x, lambda g, _, k=k, c=c: clipped(g) - c_k[k] + c, 2)
                c_new = c_k[k] - c + (x - y) / (K * 0.05)
                assert np.linalg.norm(c_new) <= 0.5 + 1e-6
                deltas.append(y - x)
                changes += p_of("examples")[k] * (c_new - c_k[k])
                c_k[k] = c_new
            x = x + np.average(deltas, axis=0, weights=weights_of(cohort))
            c = c + changes
            yield x

    compare(folder, test, tmp_path, "scaffold", transcribed, local=CLIPPED)


# The server's optimisers, transcribed: whatever the clients do, they see a series of mean updates

series = st.lists(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


def served(strategy: Any, deltas: list[list[float]]) -> np.ndarray:
    """The weights after mean updates, from 0."""
    state = ServerState(0, {"w": torch.zeros(3, dtype=torch.float64)})
    for delta in deltas:
        state = strategy.step(state, Aggregate(torch.tensor(delta, dtype=torch.float64)), ["w"])
    return state.parameters["w"].numpy()


@given(series)
def test_fedavgm_is_hsus_momentum(deltas: list[list[float]]):
    w, v = np.zeros(3), np.zeros(3)
    for delta in np.array(deltas):
        v = 0.7 * v + delta
        w = w + 0.5 * v
    np.testing.assert_allclose(served(FedAvgM(lr=0.5, momentum=0.7), deltas), w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
@given(deltas=series)
def test_fedadagrad_fedadam_and_fedyogi_are_reddis_algorithm_2(kind: type, deltas: list[list[float]]):
    x, m, v = np.zeros(3), np.zeros(3), np.full(3, 0.01**2)
    for delta in np.array(deltas):
        m = 0.8 * m + (1 - 0.8) * delta
        if kind is FedAdagrad:
            v = v + delta**2
        elif kind is FedYogi:
            v = v - (1 - 0.95) * delta**2 * np.sign(v - delta**2)
        else:
            v = 0.95 * v + (1 - 0.95) * delta**2
        x = x + 0.1 * m / (np.sqrt(v) + 0.01)
    more = {} if kind is FedAdagrad else {"beta2": 0.95}
    np.testing.assert_allclose(served(kind(lr=0.1, beta1=0.8, tau=0.01, **more), deltas), x, rtol=1e-9, atol=1e-12)


# Limits and special cases


def context_of(local: LocalTraining, start: torch.Tensor | None = None, **more: Any) -> ClientContext:
    """A client's context outside of a federation."""
    start = torch.zeros(1) if start is None else start
    return ClientContext(1, 0, 1.0, local, start, {}, start_loss=lambda: 1.0, seed=0, **more)


def plain_update() -> Update:
    return Update(0, 1.0, ClientReport(1, 0, 10, 1, 0.0, None, None, 0, None, None), torch.ones(1))


def last(folder: Path, test: Path, states: Path, strategy: str, **settings: Any) -> ServerState:
    return federate(folder, test, strategy=strategy, states=states, **{"local": SGD, **settings})[-1][0]


@pytest.fixture(scope="module")
def fedavg(folder: Path, test: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerState:
    """What FedAvg comes to, which others come to as well or do not."""
    return last(folder, test, tmp_path_factory.mktemp("fedavg"), "fedavg")


def test_fedprox_with_mu_zero_is_fedavg(folder: Path, test: Path, tmp_path: Path, fedavg: ServerState):
    prox = last(folder, test, tmp_path, "fedprox", block={"mu": 0.0})
    assert same(prox.parameters, fedavg.parameters)


def test_fedprox_with_a_large_mu_stays_where_it_is(folder: Path, test: Path, tmp_path: Path):
    """mu lr = 1 undoes each step before the next: what is left is the last batch's."""
    start = flat(start_of(Logistic()).values()).double().numpy()
    free = last(folder, test, tmp_path, "fedavg", rounds=1, model=Logistic())
    held = last(folder, test, tmp_path, "fedprox", rounds=1, model=Logistic(), block={"mu": 20.0})
    assert np.linalg.norm(weights(held) - start) < 0.5 * np.linalg.norm(weights(free) - start)


@pytest.mark.parametrize("mu", [0.6, 1.0])
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_the_gradient_of_the_proximal_term_is_mu_times_the_distance(mu: float, w: list[float], start: list[float]):
    """mu/2 ‖w - w_t‖² by central differences, which are exact for a parabola."""
    w0, at = np.array(start), np.array(w)
    correction = FedProx(mu=mu).correction(context_of(SGD, torch.tensor(start, dtype=torch.float64)))
    assert correction is not None
    found = correction.constant.numpy() + correction.proximal * at
    steps = 0.01 * np.eye(4)
    differences = [mu / 2 * (((at + e - w0) ** 2).sum() - ((at - e - w0) ** 2).sum()) / 0.02 for e in steps]
    np.testing.assert_allclose(found, differences, atol=1e-9)


def test_fednova_with_equal_steps_is_fedavg(sample: Dataset, test: Path, tmp_path: Path):
    assignment = np.split(generator(2, "test").permutation(len(sample.train))[:600], 5)
    store.write(tmp_path / "shards", sample.train.images, sample.train.labels, assignment, 10)
    nova, avg = (last(tmp_path / "shards", test, tmp_path, name) for name in ("fednova", "fedavg"))
    np.testing.assert_allclose(weights(nova), weights(avg), atol=1e-6)


def test_fednova_with_unequal_steps_is_not_fedavg(folder: Path, test: Path, tmp_path: Path, fedavg: ServerState):
    nova = last(folder, test, tmp_path, "fednova")
    assert np.abs(weights(nova) - weights(fedavg)).max() > 1e-3


@given(st.integers(1, 50), st.floats(0, 0.99))
def test_fednova_divides_by_the_sum_of_all_gradients_weights(steps: int, momentum: float):
    """Of SGD with momentum, on a gradient that is always 1, ‖a‖₁ is how far lr = 1 goes."""
    velocity = distance = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        distance += velocity
    local = LocalTraining(optimizer="sgd", momentum=momentum)
    sent = STRATEGIES["fednova"]().on_client(plain_update(), context_of(local), LocalResult(torch.ones(1), steps, None))
    assert sent.scalars["norm"] == pytest.approx(distance, rel=1e-6)
    assert sent.delta.item() == pytest.approx(1 / distance, rel=1e-6)


def test_scaffolds_first_round_is_fedavgs(folder: Path, test: Path, tmp_path: Path):
    one, other = (last(folder, test, tmp_path, name, rounds=1) for name in ("scaffold", "fedavg"))
    np.testing.assert_allclose(weights(one), weights(other), atol=1e-6)


@pytest.mark.parametrize("strategy", SUMMED)
@pytest.mark.parametrize("sampling", ["uniform", "size", "poisson", "shuffled"])
@each_objective
def test_the_servers_sum_is_that_of_the_clients_states(
    strategy: str, sampling: str, objective: str, folder: Path, test: Path, tmp_path: Path
):
    """SCAFFOLD's c = Σ_k p_k c_k, FedDyn's h = Σ_k p_k λ_k, over all clients, with 0 for those that never took part."""
    setting: dict[str, Any] = {"strategy": strategy, "sampling": sampling, "dropout": 0.2, "rounds": 5, "local": SGD}
    setting |= {"model": Logistic(), "objective": objective}
    for rounds in range(1, 6):
        states = tmp_path / str(rounds)
        state, _ = federate(folder, test, states=states, stop=rounds, **setting)[-1]
        expected = np.zeros(7850)
        for client, round in state.last_rounds.items():
            [(_, vector)] = ClientStates(states).read(client, round)["strategy"].items()
            expected += p_of(objective)[client] * vector.double().numpy()
        np.testing.assert_allclose(state.strategy[SUMMED[strategy]], expected, atol=1e-7)


def test_q_fedavg_with_q_zero_is_fedavg(folder: Path, test: Path, tmp_path: Path, fedavg: ServerState):
    fair = last(folder, test, tmp_path, "q-fedavg", block={"q": 0.0})
    np.testing.assert_allclose(weights(fair), weights(fedavg), atol=1e-5)


def test_fedavgm_without_momentum_is_fedavg(folder: Path, test: Path, tmp_path: Path, fedavg: ServerState):
    plain = last(folder, test, tmp_path, "fedavgm", block={"momentum": 0.0})
    assert same(plain.parameters, fedavg.parameters)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "block", "optimal"), [
    ("fedavg", None, False), ("scaffold", None, True), ("feddyn", {"alpha": 3.0}, True)
])  # fmt: skip
@each_objective
def test_where_many_local_steps_end_on_clients_of_different_labels(
    strategy: str, block: dict[str, Any] | None, optimal: bool, objective: str, sample: Dataset, test: Path,
    tmp_path: Path,
):  # fmt: skip
    """Full gradients, all clients, a strongly convex loss: FedAvg ends elsewhere than at the objective's optimum;
    SCAFFOLD and FedDyn end there. Karimireddy et al. 2020, theorem 3; Acar et al. 2021, theorem 1."""
    labels = sample.train.labels.numpy()
    assignment = [np.flatnonzero(np.isin(labels, (k, k + 5)))[:: 6 + 3 * k] for k in range(5)]
    store.write(tmp_path / "shards", sample.train.images, sample.train.labels, assignment, 10)
    local = LocalTraining(epochs=20, batch_size=None, optimizer="sgd", lr=0.02, weight_decay=0.5)
    state = federate(
        tmp_path / "shards", test, strategy=strategy, block=block, model=Logistic(), clients_per_round=5, local=local,
        rounds=80, evaluate_every=80, evaluate_clients=False, states=tmp_path, objective=objective,
    )[-1][0]  # fmt: skip
    federation, w = Transcription(tmp_path / "shards", local), weights(state)
    gradients = [federation.loss_and_gradient(w, k)[1] for k in range(5)]
    sizes = [len(part) for part in assignment]
    gradient, other = (np.average(gradients, axis=0, weights=p) + 0.5 * w for p in (sizes, np.ones(5)))
    if objective == "clients":
        gradient, other = other, gradient
    assert (np.linalg.norm(gradient) < 1e-3) == optimal
    assert np.linalg.norm(other) > 1e-2  # the two objectives have different optima


@pytest.mark.parametrize("told", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}])
def test_fedsgd_takes_one_plain_step_whatever_the_clients_are_told(told: dict[str, Any]):
    kept = {"lr": 0.3, "weight_decay": 0.1, "clip_norm": 2.0}
    one = LocalTraining.model_validate({"epochs": 1, "batch_size": None, "optimizer": "sgd", "momentum": 0.0} | kept)
    given = LocalTraining.model_validate({"epochs": 7, "batch_size": 32} | told | kept)
    assert FedSGD().local_training(given) == one


def test_q_fedavg_weighs_a_client_without_any_loss_by_about_nothing():
    context = replace(context_of(SGD), start_loss=lambda: 0.0)
    update = QFedAvg(q=0.5).on_client(plain_update(), context, LocalResult(torch.ones(1), 1, None))
    assert abs(update.delta.item()) == pytest.approx(0, abs=1e-4)
    assert math.isfinite(update.scalars["h"])


def test_q_fedavg_of_a_loss_whose_power_is_no_number_any_more_is_an_update_that_is_refused():
    context = replace(context_of(SGD), start_loss=lambda: 1e38)
    update = QFedAvg(q=10.0).on_client(plain_update(), context, LocalResult(torch.ones(1), 1, None))
    assert update.scalars["h"] == math.inf


def test_fedyogis_second_moment_stays_where_it_is_the_square():
    """Also where both are 0, as for a weight that no client changes."""
    v = torch.tensor([0.0, 0.25, 0.25])
    assert FedYogi(beta2=0.5).second_moment(v, torch.tensor([0.0, 0.25, 1.0])).tolist() == [0.0, 0.25, 0.75]


# Client states


@pytest.mark.parametrize("strategy", STATEFUL)
def test_a_client_has_the_state_of_its_last_round_and_the_one_before_on_disk(
    strategy: str, folder: Path, test: Path, tmp_path: Path
):
    rounds = federate(
        folder, test, strategy=strategy, model=Normalised(), rounds=6, local=SGD, states=tmp_path, clients_per_round=2
    )
    for client in range(5):
        took_part = [round.number for _, round in rounds if client in cohort_of(round)]
        found = [] if not took_part else sorted(path.name for path in (tmp_path / f"client-{client:05d}").iterdir())
        assert found == [f"round-{round:05d}.state" for round in took_part[-2:]]
        assert rounds[-1][0].last_rounds.get(client) == (took_part[-1] if took_part else None)


@pytest.mark.parametrize("strategy", STATEFUL)
def test_a_client_whose_update_was_lost_goes_on_from_its_last_update_that_counted(
    strategy: str, folder: Path, test: Path, tmp_path: Path
):
    """As if it had never written the state of the round in between."""
    client, start = client_of(folder, tmp_path, strategy=strategy, local=SGD), start_of(seed=0)
    extra = {"control": torch.zeros(28_938)} if strategy == "scaffold" else {}
    client.update(Broadcast(1, start, extra), task_of(2))
    expected = client.update(Broadcast(5, start, extra), task_of(2, last_round=1))
    client.update(Broadcast(3, start, extra), task_of(2, last_round=1))  # lost on its way
    again = client.update(Broadcast(5, start, extra), task_of(2, last_round=1))
    assert torch.equal(again.delta, expected.delta)
    found = sorted(path.name for path in (tmp_path / "client-00002").iterdir())
    assert found == ["round-00001.state", "round-00005.state"]


@every
def test_bytes_are_the_lengths_of_what_is_sent(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Of a model with buffers, round 1: the messages made again, one by one."""
    torch.set_num_threads(1)  # the report's digits are sent too
    [(_, round)] = federate(
        folder, test, strategy=strategy, model=Normalised(), states=tmp_path / "one", rounds=1, dropout=0.5, local=SGD,
        clients_per_round=5,
    )  # fmt: skip
    architecture, start = Normalised().on(MNIST), start_of(Normalised())
    settings: dict[str, Any] = {"strategy": strategy, "dropout": 0.5, "local": SGD}
    client = client_of(folder, tmp_path / "other", seed=11, architecture=architecture, **settings)
    extra = {"control": torch.zeros(1562)} if strategy == "scaffold" else {}
    broadcast, down, up = Broadcast(1, start, extra), 0, 0
    returned = [report.client for report in round.clients]
    assert 0 < len(returned) < 5
    for member in round.cohort.invited:
        weight = SIZES[member.client] / sum(SIZES[client] for client in returned)
        task = Task(member.client, member.epochs, weight, SIZES[member.client] / sum(SIZES))
        down += len(broadcast.encode()) + len(task.encode())
        if member.client in returned:
            up += len(client.update(broadcast, task).encode())
    assert (round.bytes_down, round.bytes_up) == (down, up)
    weights = 4 * (4 * 25 + 4 + 4 + 4 + 144 * 10 + 10)
    buffers, normalisation = 4 * 8 + 8, 4 * 8
    vectors = weights * (2 if strategy == "scaffold" else 1)  # which sends its control both ways besides
    stays = buffers + normalisation if strategy == "fedbn" else 0
    assert 0 < down / 5 - (vectors + buffers) < 2000  # names, shapes and numbers
    assert 0 < up / len(returned) - (vectors + buffers - stays) < 2000


# FedBN


def test_fedbn_averages_all_but_normalisation_which_each_client_has_its_own(folder: Path, test: Path, tmp_path: Path):
    """Li et al. 2021, algorithm 1, transcribed with the training loop that test_training checks."""
    torch.set_num_threads(1)
    architecture, setting = Normalised().on(MNIST), {"strategy": "fedbn", "model": Normalised(), "local": SGD}
    server, home = dict(start_of(Normalised())), {}
    layers = [name for name in server if name.startswith("1.")]
    assert len(layers) == 5
    initial = {name: server[name] for name in layers}
    for state, round in federate(folder, test, states=tmp_path, rounds=4, **setting):
        trained = []
        for client in cohort_of(round):
            network = network_with(architecture, {**server, **home.get(client, initial)})
            rng = generator(11, "batches", round=round.number, client=client)
            list(train(network, *open_store(folder).examples(client), MNIST, SGD, rng))
            trained.append(parameters_of(network))
            home[client] = {name: trained[-1][name] for name in layers}
        for name in set(server) - set(layers):
            mean = np.average([model[name].numpy() for model in trained], axis=0, weights=weights_of(cohort_of(round)))
            np.testing.assert_allclose(state.parameters[name], mean, atol=1e-6)
        assert all(torch.equal(state.parameters[name], initial[name]) for name in layers)
        server = dict(state.parameters)
    assert len({home[client]["1.running_mean"].sum().item() for client in home}) == len(home)


def test_fedbn_without_normalisation_is_fedavg(folder: Path, test: Path, tmp_path: Path):
    bn, avg = (last(folder, test, tmp_path, name, model=Logistic()) for name in ("fedbn", "fedavg"))
    assert same(bn.parameters, avg.parameters)


# Clients' objectives that no affine correction expresses


class SAM(FedAvg):
    """The gradient at w + rho g / ‖g‖. Qu et al. 2022, arXiv:2206.02618, algorithm 1 (FedSAM)."""

    rho: float = 0.5

    def gradients(self, context: ClientContext) -> GradientFunction:
        return self._perturbed

    def _perturbed(
        self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor, arithmetic: Arithmetic
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss, gradients = loss_and_gradients(network, images, labels, arithmetic)
        scale = self.rho / torch.linalg.vector_norm(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        before = [parameter.detach().clone() for parameter in network.parameters()]
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.add_(gradient, alpha=float(scale))
        _, perturbed = loss_and_gradients(network, images, labels, arithmetic)
        with torch.no_grad():
            for parameter, old in zip(network.parameters(), before, strict=True):
                parameter.copy_(old)
        return loss, perturbed


class WithSAM(Federated):
    """Settings of a strategy that is not in the table."""

    @property
    def algorithm(self) -> Strategy:
        return SAM()


def test_a_strategy_may_replace_the_gradient(folder: Path, test: Path):
    """FedSAM, transcribed."""
    setting: dict[str, Any] = {"kind": WithSAM, "model": Logistic(), "local": SGD, "rounds": 2}
    rounds = federate(folder, test, **setting)
    federation = Transcription(folder, SGD)
    w = federation.start
    for state, round in rounds:
        models = []
        for k in cohort_of(round):

            def sam(g: np.ndarray, v: np.ndarray, batch: np.ndarray, k: int = k) -> np.ndarray:
                return federation.loss_and_gradient(v + 0.5 * g / np.linalg.norm(g), k, batch)[1]

            models.append(federation.client_by_batch(k, round.number, w, sam, 2))
        w = np.average(models, axis=0, weights=weights_of(cohort_of(round)))
        np.testing.assert_allclose(weights(state), w, atol=2e-5)
    assert np.abs(w - weights(federate(folder, test, model=Logistic(), local=SGD, rounds=2)[-1][0])).max() > 1e-3
