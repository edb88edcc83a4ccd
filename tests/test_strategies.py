"""Laws of the strategies, each against its paper: transcribed anew in NumPy, or a case in which the answer is known.

`every` strategy of the table is held to the laws that all share; a new one is, as soon as it is there.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from fedpipe import shards
from fedpipe.client import Local
from fedpipe.datasets import Dataset
from fedpipe.engines import Compute
from fedpipe.federated import Round
from fedpipe.models import flat, initial_parameters, network_with, parameters_of
from fedpipe.models.base import Model, normalised
from fedpipe.models.logistic import Logistic
from fedpipe.randomness import generator
from fedpipe.strategies import CLIENTS, STRATEGIES, Aggregate, ServerState, Trained, Visit
from fedpipe.strategies.fedavgm import FedAvgM
from fedpipe.strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from fedpipe.strategies.fedprox import FedProx
from fedpipe.training import train
from tests.federations import SIZES, federate, same

every = pytest.mark.parametrize("strategy", STRATEGIES)
SGD = Local(epochs=2, batch_size=32, optimizer="sgd", lr=0.05)
STATEFUL = [name for name, kind in STRATEGIES.items() if kind.keeps_state]


class Normalised(Model):
    """A small network with BatchNorm, whose statistics are buffers: mean, variance, and a count, a whole number."""

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, self.classes)
        )


def weights(state: ServerState) -> np.ndarray:
    """(d,) float64."""
    return flat(state.parameters.values()).double().numpy()


# Laws of all


@every
def test_every_strategy_learns(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """fedsgd, a step a round, more slowly than others. With lr 0.05 SCAFFOLD diverges in the tenth round: clients of 4
    and of 16 steps have controls of different scale, and its theory wants lr in proportion to 1 / steps."""
    local = Local(epochs=2, batch_size=32, optimizer="sgd", lr=0.02)
    results = [
        round.row()["test_accuracy"]
        for _, round in federate(
            folder, test, strategy=strategy, rounds=10, clients_per_round=5, local=local, states=tmp_path
        )
    ]
    assert results[-1] > (0.3 if strategy == "fedsgd" else 0.6)


@every
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_strategy_gives_the_same_bits_whatever_the_engine(
    strategy: str, optimizer: str, folder: Path, test: Path, tmp_path: Path
):
    local = Local.model_validate({"epochs": 2, "batch_size": 32, "optimizer": optimizer, "lr": 0.001})
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
        assert {name: slot.tolist() for name, slot in one.slots.items()} == {
            name: slot.tolist() for name, slot in other.slots.items()
        }


@pytest.mark.parametrize("strategy", STATEFUL)
def test_what_clients_keep_is_the_same_on_ray(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Its workers run in another folder."""
    one, other = (
        federate(
            folder, test, strategy=strategy, model=Logistic(), local=SGD, states=tmp_path / engine,
            compute=Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu"}),
        )[-1][0]
        for engine in ("threads", "ray")
    )  # fmt: skip
    assert same(one.parameters, other.parameters)
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {
        path.name for path in (tmp_path / "threads").iterdir()
    }


@every
def test_every_strategy_goes_on_from_a_round_exactly(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Also if the run was cut off after half of the next round's clients had kept their new state."""
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
        shards.write(
            folder / "shards", sample.train.images, sample.train.labels, [assignment[i] for i in permutation], 10
        )
        local = Local(epochs=3, batch_size=None, optimizer="sgd", lr=0.05)
        rounds = federate(
            folder / "shards", test, strategy=strategy, model=Logistic(), clients_per_round=5, local=local,
            states=folder / "states",
        )  # fmt: skip
        models.append(weights(rounds[-1][0]))
    np.testing.assert_allclose(models[0], models[1], atol=1e-5)


@every
def test_a_voided_round_changes_nothing(strategy: str, folder: Path, test: Path, tmp_path: Path):
    rounds = federate(
        folder, test, strategy=strategy, rounds=8, clients_per_round=5, dropout=0.5, min_updates=3, local=SGD,
        model=Logistic(), states=tmp_path,
    )  # fmt: skip
    before = ServerState(0, initial_parameters(Logistic(), 11))
    voided = 0
    for after, round in rounds:
        returned = 5 - len(round.cohort.dropped)
        assert round.void == (returned < 3)
        if round.void:
            voided += 1
            assert same(before.parameters, after.parameters)
            assert before.slots == after.slots
            assert before.kept == after.kept
            row = round.row()
            assert (row["void"], row["examples"], row["train_loss"]) == (1, 0, None)
            assert row["bytes_up"] == row["bytes_down"] / 5 * returned  # sent, if in vain
        else:
            assert not same(before.parameters, after.parameters)
        before = after
    assert 0 < voided < 8


@every
def test_buffers_are_averaged_by_examples(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """BatchNorm's statistics, whatever the strategy does with the weights; a count stays a whole number."""
    torch.set_num_threads(1)
    start = initial_parameters(Normalised(), 11)
    local = Local(epochs=1, batch_size=None, optimizer="sgd", lr=0.05)  # one step: statistics of w_t, no strategy's
    [(state, round)] = federate(
        folder, test, strategy=strategy, model=Normalised(), rounds=1, local=local, states=tmp_path
    )
    cohort = [report.client for report in round.clients]
    clients = []
    for client in cohort:
        network = network_with(Normalised(), start)
        images, labels = shards.read(shards.locate(folder)[client])
        list(train(network, images, labels, local, generator(11, "batches", round=1, client=client)))
        clients.append(parameters_of(network))
    for name in ("1.running_mean", "1.running_var"):
        expected = np.average([c[name].numpy() for c in clients], axis=0, weights=[SIZES[client] for client in cohort])
        np.testing.assert_allclose(state.parameters[name], expected, rtol=1e-5)
        assert not torch.equal(state.parameters[name], start[name])
    assert state.parameters["1.num_batches_tracked"].item() == 1
    assert state.parameters["1.num_batches_tracked"].dtype == torch.int64


def test_a_count_of_clients_that_differ_is_averaged_and_rounded(folder: Path, test: Path):
    """Batches of 32: 4, 2, 8, 2 and 5 of them a client, by 100, 40, 250, 60 and 150 examples."""
    local = Local(epochs=1, batch_size=32, optimizer="sgd", lr=0.01)
    [(state, _)] = federate(folder, test, model=Normalised(), rounds=1, clients_per_round=5, local=local)
    mean = (100 * 4 + 40 * 2 + 250 * 8 + 60 * 2 + 150 * 5) / 600
    assert state.parameters["1.num_batches_tracked"].item() == round(mean) == 6


# Federated optimisation transcribed: logistic regression, whose gradient anybody can write down, in float64


class Transcription:
    """A federation of logistic regressions with the batches that ours take."""

    def __init__(self, folder: Path, local: Local, seed: int = 11) -> None:
        self.local, self.seed = local, seed
        self.data = []
        for shard in shards.locate(folder):
            images, labels = shards.read(shard)
            self.data.append((normalised(images).flatten(1).double().numpy(), labels.numpy()))
        self.start = flat(initial_parameters(Logistic(), seed).values()).double().numpy()

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


def n_of(clients: list[int]) -> np.ndarray:
    return np.array([SIZES[k] for k in clients], dtype=float)


def test_fedavg_is_mcmahans_algorithm_1(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            models = [federation.client(k, round.number, w, lambda g, _: g, 2)[0] for k in cohort_of(round)]
            w = np.average(models, axis=0, weights=n_of(cohort_of(round)))
            yield w

    compare(folder, test, tmp_path, "fedavg", transcribed)


def test_fedsgd_is_a_gradient_step_on_all_examples_of_the_cohort(folder: Path, test: Path, tmp_path: Path):
    """McMahan et al. 2017, section 2; whatever federated.local says of epochs and batches."""

    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            gradients = [federation.loss_and_gradient(w, k)[1] for k in cohort_of(round)]
            w = w - 0.05 * np.average(gradients, axis=0, weights=n_of(cohort_of(round)))
            yield w

    compare(folder, test, tmp_path, "fedsgd", transcribed)


def test_fedprox_is_lis_algorithm_2(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            models = [
                federation.client(k, round.number, w, lambda g, v, w=w: g + 0.7 * (v - w), 2)[0]
                for k in cohort_of(round)
            ]
            w = np.average(models, axis=0, weights=n_of(cohort_of(round)))
            yield w

    compare(folder, test, tmp_path, "fedprox", transcribed, own={"mu": 0.7})


def test_scaffold_is_karimireddys_algorithm_1_with_option_ii(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        x, c, c_k = federation.start, np.zeros(7850), np.zeros((5, 7850))
        for round in rounds:
            deltas, changes, cohort = [], np.zeros(7850), cohort_of(round)
            for k in cohort:
                y, K = federation.client(k, round.number, x, lambda g, _, k=k, c=c: g - c_k[k] + c, 2)
                c_new = c_k[k] - c + (x - y) / (K * 0.05)
                deltas.append(y - x)
                changes += SIZES[k] / sum(SIZES) * (c_new - c_k[k])
                c_k[k] = c_new
            x = x + 1.5 * np.average(deltas, axis=0, weights=n_of(cohort))
            c = c + changes
            yield x

    compare(folder, test, tmp_path, "scaffold", transcribed, own={"lr": 1.5})


def test_fednova_is_wangs_equation_8_with_stragglers(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w = federation.start
        for round in rounds:
            n = n_of(cohort_of(round))
            directions, taus = [], []
            for report in round.clients:
                model, tau = federation.client(report.client, round.number, w, lambda g, _: g, report.epochs)
                directions.append((w - model) / (0.05 * tau))
                taus.append(tau)
            w = w - np.average(taus, weights=n) * 0.05 * np.average(directions, axis=0, weights=n)
            yield w

    local = Local(epochs=4, batch_size=32, optimizer="sgd", lr=0.05)
    compare(folder, test, tmp_path, "fednova", transcribed, local=local, stragglers=0.5)


def test_feddyn_is_acars_algorithm_1(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        theta, h, gradients = federation.start, np.zeros(7850), np.zeros((5, 7850))
        for round in rounds:
            models, cohort = [], cohort_of(round)
            for k in cohort:
                model, _ = federation.client(
                    k, round.number, theta, lambda g, v, k=k, t=theta: g - gradients[k] + 0.3 * (v - t), 2
                )
                gradients[k] -= 0.3 * (model - theta)
                h = h - 0.3 * SIZES[k] / sum(SIZES) * (model - theta)
                models.append(model)
            theta = np.average(models, axis=0, weights=n_of(cohort)) - h / 0.3
            yield theta

    compare(folder, test, tmp_path, "feddyn", transcribed, own={"alpha": 0.3})


def test_q_fedavg_is_lis_algorithm_2(folder: Path, test: Path, tmp_path: Path):
    def transcribed(federation: Transcription, rounds: list[Round]) -> Iterator[np.ndarray]:
        w, q, L = federation.start, 2.0, 1 / 0.05
        for round in rounds:
            numerator, denominator = np.zeros(7850), 0.0
            for k in cohort_of(round):
                loss, _ = federation.loss_and_gradient(w, k)
                model, _ = federation.client(k, round.number, w, lambda g, _: g, 2)
                step = L * (w - model)
                numerator += SIZES[k] * loss**q * step
                denominator += SIZES[k] * (q * loss ** (q - 1) * step @ step + L * loss**q)
            w = w - numerator / denominator
            yield w

    compare(folder, test, tmp_path, "q-fedavg", transcribed, own={"q": 2.0})


# The server's optimisers, transcribed: whatever the clients do, they see a series of mean updates

series = st.lists(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


def served(strategy: Any, deltas: list[list[float]]) -> np.ndarray:
    """The weights after mean updates, from 0."""
    state = ServerState(0, {"w": torch.zeros(3, dtype=torch.float64)})
    for delta in deltas:
        state = strategy.step(state, Aggregate(torch.tensor(delta, dtype=torch.float64), {}, {}))
    assert state.round == len(deltas)
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


def last(folder: Path, test: Path, states: Path, strategy: str, **settings: Any) -> ServerState:
    return federate(folder, test, strategy=strategy, states=states, **{"local": SGD, **settings})[-1][0]


def test_fedprox_with_mu_zero_is_fedavg(folder: Path, test: Path, tmp_path: Path):
    prox = last(folder, test, tmp_path, "fedprox", own={"mu": 0.0})
    assert same(prox.parameters, last(folder, test, tmp_path, "fedavg").parameters)


def test_fedprox_with_a_large_mu_stays_where_it_is(folder: Path, test: Path, tmp_path: Path):
    """mu lr = 1 undoes each step before the next: what is left is the last batch's."""
    start = flat(initial_parameters(Logistic(), 11).values()).double().numpy()
    free = last(folder, test, tmp_path, "fedavg", rounds=1, model=Logistic())
    held = last(folder, test, tmp_path, "fedprox", rounds=1, model=Logistic(), own={"mu": 20.0})
    assert np.linalg.norm(weights(held) - start) < 0.5 * np.linalg.norm(weights(free) - start)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_the_gradient_of_the_proximal_term_is_mu_times_the_distance(w: list[float], start: list[float]):
    """mu/2 ‖w - w_t‖² by central differences, which are exact for a parabola."""
    mu, w0, at = 0.6, np.array(start), np.array(w)
    correction = FedProx(mu=mu).correction(
        Visit(torch.tensor(start, dtype=torch.float64), torch.empty(0), torch.empty(0), SGD)
    )
    assert correction is not None
    found = correction.constant.numpy() + correction.proximal * at
    steps = 0.01 * np.eye(4)
    differences = [mu / 2 * (((at + e - w0) ** 2).sum() - ((at - e - w0) ** 2).sum()) / 0.02 for e in steps]
    np.testing.assert_allclose(found, differences, atol=1e-9)


def test_fednova_with_equal_steps_is_fedavg(sample: Dataset, test: Path, tmp_path: Path):
    assignment = np.split(generator(2, "test").permutation(len(sample.train))[:600], 5)
    shards.write(tmp_path / "shards", sample.train.images, sample.train.labels, assignment, 10)
    nova, avg = (last(tmp_path / "shards", test, tmp_path, name) for name in ("fednova", "fedavg"))
    np.testing.assert_allclose(weights(nova), weights(avg), atol=1e-6)


def test_fednova_with_unequal_steps_is_not_fedavg(folder: Path, test: Path, tmp_path: Path):
    nova, avg = (last(folder, test, tmp_path, name) for name in ("fednova", "fedavg"))
    assert np.abs(weights(nova) - weights(avg)).max() > 1e-3


@given(st.integers(1, 50), st.floats(0, 0.99))
def test_fednova_divides_by_the_sum_of_all_gradients_weights(steps: int, momentum: float):
    """Of SGD with momentum, on a gradient that is always 1, ‖a‖₁ is how far lr = 1 goes."""
    velocity = distance = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        distance += velocity
    local = Local(optimizer="sgd", momentum=momentum)
    nothing = torch.empty(0)
    visit, trained = Visit(nothing, nothing, nothing, local), Trained(torch.ones(1), steps, None, None)
    assert STRATEGIES["fednova"]().upload(visit, trained).scalars["norm"] == pytest.approx(distance, rel=1e-6)


def test_scaffolds_first_round_is_fedavgs(folder: Path, test: Path, tmp_path: Path):
    one, other = (last(folder, test, tmp_path, name, rounds=1) for name in ("scaffold", "fedavg"))
    np.testing.assert_allclose(weights(one), weights(other), atol=1e-6)


@pytest.mark.parametrize("strategy", STATEFUL)
@pytest.mark.parametrize("sampling", ["uniform", "size", "poisson"])
def test_the_servers_sum_is_that_of_the_clients_states(
    strategy: str, sampling: str, folder: Path, test: Path, tmp_path: Path
):
    """SCAFFOLD's c = Σ_k p_k c_k, FedDyn's h = Σ_k p_k λ_k, over all clients, with 0 for those that never took part."""
    setting: dict[str, Any] = {"strategy": strategy, "sampling": sampling, "dropout": 0.2, "rounds": 5, "local": SGD}
    setting["model"] = Logistic()
    for rounds in range(1, 6):
        states = tmp_path / str(rounds)
        state, _ = federate(folder, test, states=states, stop=rounds, **setting)[-1]
        expected = np.zeros(7850)
        for client, round in state.kept.items():
            file = states / f"client-{client:05d}-round-{round:05d}.safetensors"
            expected += SIZES[client] / sum(SIZES) * load_file(file)["own"].double().numpy()
        np.testing.assert_allclose(state.slots[CLIENTS], expected, atol=1e-7)


def test_q_fedavg_with_q_zero_is_fedavg(folder: Path, test: Path, tmp_path: Path):
    fair = last(folder, test, tmp_path, "q-fedavg", own={"q": 0.0})
    np.testing.assert_allclose(weights(fair), weights(last(folder, test, tmp_path, "fedavg")), atol=1e-5)


def test_fedavgm_without_momentum_is_fedavg(folder: Path, test: Path, tmp_path: Path):
    plain = last(folder, test, tmp_path, "fedavgm", own={"momentum": 0.0})
    assert same(plain.parameters, last(folder, test, tmp_path, "fedavg").parameters)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "own", "optimal"), [
    ("fedavg", None, False), ("scaffold", None, True), ("feddyn", {"alpha": 3.0}, True)
])  # fmt: skip
def test_where_many_local_steps_end_on_clients_of_different_labels(
    strategy: str, own: dict[str, Any] | None, optimal: bool, sample: Dataset, test: Path, tmp_path: Path
):
    """Full gradients, all clients, a strongly convex loss: FedAvg ends elsewhere than at the optimum of the whole;
    SCAFFOLD and FedDyn end there. Karimireddy et al. 2020, theorem 3; Acar et al. 2021, theorem 1."""
    labels = sample.train.labels.numpy()
    assignment = [np.flatnonzero(np.isin(labels, (k, k + 5)))[::10] for k in range(5)]
    shards.write(tmp_path / "shards", sample.train.images, sample.train.labels, assignment, 10)
    local = Local(epochs=20, batch_size=None, optimizer="sgd", lr=0.02, weight_decay=0.5)
    state = federate(
        tmp_path / "shards", test, strategy=strategy, own=own, model=Logistic(), clients_per_round=5, local=local,
        rounds=80, evaluate_every=80, evaluate_clients=False, states=tmp_path,
    )[-1][0]  # fmt: skip
    federation, w = Transcription(tmp_path / "shards", local), weights(state)
    sizes = [len(part) for part in assignment]
    gradients = [federation.loss_and_gradient(w, k)[1] for k in range(5)]
    gradient = np.average(gradients, axis=0, weights=sizes) + 0.5 * w
    assert (np.linalg.norm(gradient) < 1e-3) == optimal


# What clients keep


@pytest.mark.parametrize("strategy", STATEFUL)
def test_of_each_client_one_state_is_kept_on_disk(strategy: str, folder: Path, test: Path, tmp_path: Path):
    rounds = federate(
        folder, test, strategy=strategy, model=Logistic(), rounds=6, local=SGD, states=tmp_path, clients_per_round=2
    )
    state = rounds[-1][0]
    expected = {f"client-{client:05d}-round-{kept:05d}.safetensors" for client, kept in state.kept.items()}
    found = {path.name for path in tmp_path.iterdir()}
    assert expected <= found
    assert len(found - expected) <= 2  # the last round's cohort's, until the next begins
    assert state.kept == {client: r.number for _, r in rounds for client in cohort_of(r)}


@every
def test_bytes_are_those_of_what_is_sent(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Of a model with buffers; SCAFFOLD sends its control both ways besides."""
    rounds = federate(
        folder, test, strategy=strategy, model=Normalised(), states=tmp_path, rounds=2, dropout=0.3, local=SGD
    )
    weights_alone = 4 * (4 * 25 + 4 + 4 + 4 + 144 * 10 + 10)
    model = weights_alone + 4 * 8 + 8
    extra = weights_alone if strategy == "scaffold" else 0
    for _, round in rounds:
        assert round.bytes_down == len(round.cohort.drawn) * (model + extra)
        assert round.bytes_up == len(round.clients) * (model + extra)
