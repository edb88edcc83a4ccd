"""Federated averaging is what the paper says, whatever runs it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpipe.data.datasets import load
from fedpipe.data.store import open_store
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, Result, run
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.messages import ClientReport
from fedpipe.federated.rounds import Round, run_rounds
from fedpipe.federated.state import ServerState
from fedpipe.federated.testing import EvaluateParts, parts
from fedpipe.models.base import Architecture
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import Parameters, network_with, parameters_of
from fedpipe.system.errors import ParameterError
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import PLAIN
from fedpipe.training.evaluation import Evaluation, Evaluator, evaluate
from fedpipe.training.loop import train
from tests.federations import (
    LOCAL,
    MNIST,
    MODEL,
    SIZES,
    THREADS,
    client_of,
    experiment_of,
    federate,
    first_round,
    same,
    start_of,
    task_of,
    weights_of,
)  # fmt: skip

Rounds = list[tuple[ServerState, Round]]


@pytest.fixture(scope="module")
def usual(folder: Path, test: Path) -> Rounds:
    """The rounds of the usual experiment."""
    return federate(folder, test)


def locally_trained(start: Parameters, folder: Path, round: int, client: int, seed: int) -> dict[str, np.ndarray]:
    """The client's model, from its file alone, by the training loop that test_training checks."""
    network = network_with(MODEL, start)
    list(
        train(
            network,
            *open_store(folder).examples(client),
            MNIST,
            LOCAL,
            generator(seed, "batches", round=round, client=client),
        )
    )
    return {name: tensor.double().numpy() for name, tensor in parameters_of(network).items()}


def test_each_round_is_the_mean_of_the_cohorts_models_weighted_by_their_examples(folder: Path, usual: Rounds):
    parameters = start_of()
    torch.set_num_threads(1)
    for state, round in usual:
        cohort = [report.client for report in round.clients]
        models = [locally_trained(parameters, folder, round.number, client, seed=11) for client in cohort]
        weights = weights_of(cohort) / weights_of(cohort).sum()
        for name in parameters:
            expected = sum(weight * model[name] for weight, model in zip(weights, models, strict=True))
            np.testing.assert_allclose(state.parameters[name].double(), expected, atol=1e-6)
        parameters = state.parameters


def test_with_one_client_it_is_plain_training_with_a_fresh_optimiser_each_round(folder: Path, test: Path):
    previous = start_of()
    for state, round in federate(folder, test, clients_per_round=1):
        expected = locally_trained(previous, folder, round.number, round.clients[0].client, seed=11)
        for name in expected:
            np.testing.assert_allclose(state.parameters[name].double(), expected[name], atol=1e-6)
        previous = state.parameters


def test_whole_shard_batches_of_all_clients_are_a_gradient_step_on_the_whole_data(folder: Path, test: Path):
    """McMahan et al. 2017, section 2: FedAvg with E=1, B=∞ and all clients is FedSGD."""
    local = LocalTraining(epochs=1, batch_size=None, optimizer="sgd", lr=0.1)
    start = start_of(seed=0)
    [(state, _)] = federate(folder, test, rounds=1, clients_per_round=5, seed=0, local=local)
    images, labels = (torch.cat(part) for part in zip(*map(open_store(folder).examples, range(5)), strict=True))
    network = network_with(MODEL, start)
    list(train(network, images, labels, MNIST, local, generator(0, "any order")))
    for name, expected in parameters_of(network).items():
        torch.testing.assert_close(state.parameters[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_result_depends_neither_on_the_engine_nor_on_the_workers(
    folder: Path, test: Path, usual: Rounds, engine: Any, workers: int
):
    compute = Compute(engine=engine, workers=workers, device="cpu")
    for (one, a), (other, b) in zip(usual, federate(folder, test, compute=compute), strict=True):
        assert same(one.parameters, other.parameters)
        assert a.clients == b.clients
        assert a.row() == b.row()


def test_the_result_does_not_depend_on_a_ray_node_that_is_lost_in_mid_round(folder: Path, test: Path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)

    def lose_the_second_node(reports: Sequence[ClientReport]) -> None:
        if reports[0].round == 2 and second in cluster.list_all_nodes():
            cluster.remove_node(second, allow_graceful=False)

    try:
        compute = Compute(engine="ray", ray_address=cluster.address, device="cpu")
        rounds = federate(folder, test, clients_per_round=5, compute=compute, on_clients=lose_the_second_node)
        assert second not in cluster.list_all_nodes()
    finally:
        cluster.shutdown()
    for (one, a), (other, b) in zip(federate(folder, test, clients_per_round=5), rounds, strict=True):
        assert same(one.parameters, other.parameters)
        assert a.row() == b.row()


Handler = Callable[[Any, Any, Sequence[Any]], Iterator[Any]]


def run_by(
    run_tasks: Handler, folder: Path, test: Path, states: Path, *, model: Architecture = MODEL, **settings: Any
) -> list[Any]:
    """The rounds of a federation whose tasks are run as the test wants."""
    client = client_of(folder, states, seed=11, architecture=model, **settings)

    def on_test_set(parameters: Parameters) -> Evaluation:
        return Evaluation.of(EvaluateParts(model, test, PLAIN)(parameters, parts(len(load(test)))), MNIST.classes)

    torch.set_num_threads(1)
    start, sizes = ServerState(0, start_of(model)), open_store(folder).sizes
    return list(run_rounds(start, client, sizes, run_tasks, Evaluator(on_test_set)))


@pytest.fixture(scope="module")
def expected(folder: Path, test: Path) -> list[tuple[ServerState, Round]]:
    """Two rounds of all clients with logistic regression."""
    return federate(folder, test, rounds=2, clients_per_round=5, model=Logistic())


@given(data=st.data())
@settings(max_examples=30)
def test_the_result_depends_neither_on_chunks_nor_on_their_order(
    data: st.DataObject, folder: Path, test: Path, expected: list[tuple[ServerState, Round]]
):
    """Clients in any order, in chunks of any sizes, whose results arrive in any order."""

    def shuffled(job: Any, shared: Any, tasks: Sequence[Any]) -> Iterator[Any]:
        order = data.draw(st.permutations(tasks))
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(tasks) - 1)))))
        chunks = [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(tasks)], strict=True)]
        return (job(shared, chunk) for chunk in data.draw(st.permutations(chunks)) if chunk)

    found = run_by(shuffled, folder, test, folder, rounds=2, clients_per_round=5, model=Logistic().on(MNIST))
    for (one, a), (other, b) in zip(found, expected, strict=True):
        assert same(one.parameters, other.parameters)
        assert a.clients == b.clients
        assert a.row() == b.row()


def losing(lost: set[int]) -> Handler:
    """Every client by itself; nothing arrives of these."""

    def run_tasks(job: Any, shared: Any, tasks: Sequence[Any]) -> Iterator[Any]:
        return (job(shared, [task]) for task in tasks if task.client not in lost)

    return run_tasks


def test_updates_that_never_arrive_are_left_out_and_named(folder: Path, test: Path, tmp_path: Path):
    """The round is the mean of those that arrived: that of a cohort without the lost clients."""
    [(state, round)] = run_by(losing({1, 3}), folder, test, tmp_path, rounds=1, clients_per_round=5)
    models = [locally_trained(start_of(), folder, 1, client, seed=11) for client in (0, 2, 4)]
    weights = weights_of([0, 2, 4]) / weights_of([0, 2, 4]).sum()
    for name in models[0]:
        expected = sum(weight * model[name] for weight, model in zip(weights, models, strict=True))
        np.testing.assert_allclose(state.parameters[name].double(), expected, atol=1e-6)
    [(_, whole)] = federate(folder, test, rounds=1, clients_per_round=5)
    row = round.row()
    assert (row["lost"], row["dropped"], row["skipped"]) == ("1 3", "", 0)
    assert row["examples"] == sum(SIZES[client] for client in (0, 2, 4))
    assert row["bytes_down"] == whole.bytes_down
    assert row["bytes_up"] < 0.7 * whole.bytes_up


def test_too_many_lost_updates_skip_the_round(folder: Path, test: Path, tmp_path: Path):
    [(state, round)] = run_by(losing({0, 1, 3}), folder, test, tmp_path, rounds=1, clients_per_round=5, min_updates=3)
    assert same(state.parameters, start_of())
    assert state.last_rounds == {}
    assert (round.row()["lost"], round.skipped, round.returned) == ("0 1 3", True, 2)
    assert (round.update_norm, round.aggregate_norm, round.update_cosine) == (None, None, None)
    assert round.bytes_up > 0  # two arrived, in vain


def test_an_update_that_is_not_finite_is_refused_and_named(folder: Path, test: Path):
    """With a learning rate at which some clients diverge at once and others, of few steps, do not."""
    local = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=1e12)
    [(state, round)] = federate(folder, test, rounds=1, clients_per_round=5, local=local, min_updates=1)
    refused = {refusal.client for refusal in round.refusals}
    assert refused
    assert round.row()["refused"] == " ".join(map(str, sorted(refused)))
    assert {report.client for report in round.clients} == set(range(5)) - refused
    assert all(torch.isfinite(tensor).all() for tensor in state.parameters.values())


def test_bfloat16_trains_almost_as_float32_does(folder: Path, test: Path):
    half = Compute(engine="threads", workers=2, device="cpu", precision="bfloat16")
    (one, a), (other, b) = (federate(folder, test, rounds=4, compute=compute)[-1] for compute in (THREADS, half))
    assert not same(one.parameters, other.parameters)
    assert {tensor.dtype for tensor in other.parameters.values()} == {torch.float32}
    assert b.row()["test_accuracy"] == pytest.approx(a.row()["test_accuracy"], abs=0.05)


def test_going_on_from_a_round_gives_what_an_uninterrupted_run_gives(folder: Path, test: Path, usual: Rounds):
    rest = federate(folder, test, state=usual[0][0])
    assert [round.number for _, round in rest] == [2, 3]
    assert same(usual[-1][0].parameters, rest[-1][0].parameters)


def test_another_seed_gives_another_model(folder: Path, test: Path):
    [(one, _)], [(other, _)] = (federate(folder, test, rounds=1, seed=seed) for seed in (1, 2))
    assert not same(one.parameters, other.parameters)


def test_a_client_reads_its_own_examples_alone(folder: Path, tmp_path: Path):
    """The files of all others are gone."""
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("manifest.csv", "SHA256SUMS", "client-00002.safetensors"):
        (alone / name).write_bytes((folder / name).read_bytes())
    one, other = (
        client_of(store, tmp_path).update(first_round(start_of(seed=0)), task_of(2)) for store in (alone, folder)
    )
    assert one.report == other.report
    assert torch.equal(one.delta, other.delta)


def test_a_client_reports_what_its_model_does_on_its_own_examples(folder: Path, tmp_path: Path):
    torch.set_num_threads(1)
    start = start_of(seed=0)
    update = client_of(folder, tmp_path).update(first_round(start), task_of(2))
    pieces = update.delta.split([tensor.numel() for tensor in start.values()])
    trained = {name: start[name] + piece.view_as(start[name]) for name, piece in zip(start, pieces, strict=True)}
    found = evaluate(network_with(MODEL, trained), *open_store(folder).examples(2), MNIST)
    assert update.report.examples == SIZES[2]
    assert update.report.accuracy == found.accuracy
    assert update.report.loss == pytest.approx(found.loss, rel=1e-4)


def test_what_is_evaluated_changes_no_model(folder: Path, test: Path, usual: Rounds):
    seldom = federate(folder, test, evaluate_every=2, evaluate_clients=False)
    assert same(usual[-1][0].parameters, seldom[-1][0].parameters)
    assert [round.test is None for _, round in seldom] == [True, False, False]  # the last always is
    assert seldom[0][1].row()["test_accuracy"] is None
    for (_, one), (_, other) in zip(usual[1:], seldom[1:], strict=True):
        # The clients' figures travel with their updates.
        assert one.row() | {"bytes_up": None} == other.row() | {"bytes_up": None}
        assert one.bytes_up > other.bytes_up
    assert {report.loss for _, round in seldom for report in round.clients} == {None}


def test_training_learns(folder: Path, test: Path):
    results = [round.row()["test_accuracy"] for _, round in federate(folder, test, rounds=6, clients_per_round=5)]
    assert results[-1] > 0.85 > results[0]


def test_the_row_of_a_round_adds_up(folder: Path, test: Path):
    [(state, round)] = federate(folder, test, rounds=1)
    row = round.row()
    cohort = [int(client) for client in row["cohort"].split()]
    assert row["examples"] == sum(SIZES[client] for client in cohort)
    assert row["train_loss"] == pytest.approx(
        np.average([report.train_loss or 0.0 for report in round.clients], weights=[SIZES[client] for client in cohort])
    )
    examples = load(test)
    again = evaluate(network_with(MODEL, state.parameters), examples.images, examples.labels, MNIST)
    assert row["test_accuracy"] == again.accuracy


@pytest.mark.parametrize("strategy", ["fedavg", "q-fedavg", "fednova", "feddyn", "fedsgd"])
def test_the_norms_of_a_round_are_those_of_what_its_clients_sent(
    strategy: str, folder: Path, test: Path, tmp_path: Path
):
    """And the cosine, which the server has from norms alone, is the mean of theirs, longer ones counting more."""
    setting: dict[str, Any] = {"strategy": strategy, "clients_per_round": 4, "seed": 11}
    [(_, round)] = federate(folder, test, rounds=1, **setting)
    torch.set_num_threads(1)
    client = client_of(folder, tmp_path, **setting)
    tasks = [task_of(report.client) for report in round.clients]
    sent = [client.update(first_round(start_of()), task).delta.double().numpy() for task in tasks]
    norms = np.array([np.linalg.norm(delta) for delta in sent])
    weights = weights_of([report.client for report in round.clients])
    mean = np.average(sent, axis=0, weights=weights)
    cosines = [delta @ mean / (norm * np.linalg.norm(mean)) for delta, norm in zip(sent, norms, strict=True)]
    assert [report.update_norm for report in round.clients] == pytest.approx(norms, rel=1e-12)
    row = round.row()
    assert row["update_norm"] == pytest.approx(np.average(norms, weights=weights), rel=1e-12)
    assert row["aggregate_norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-6)
    assert row["update_cosine"] == pytest.approx(np.average(cosines, weights=weights * norms), rel=1e-6)
    assert 0 < row["update_cosine"] < 1


def test_the_update_of_one_client_agrees_with_itself(folder: Path, test: Path):
    [(_, round)] = federate(folder, test, rounds=1, clients_per_round=1)
    assert round.update_cosine == pytest.approx(1, rel=1e-6)
    assert round.update_norm == round.clients[0].update_norm


def test_clipped_updates_are_as_long_as_the_bound(folder: Path, test: Path):
    """Norms are of what is sent."""
    [(_, round)] = federate(folder, test, rounds=1, transforms="clip", clip={"norm": 0.01})
    assert [report.update_norm for report in round.clients] == pytest.approx([0.01] * 3, rel=1e-6)


def test_bytes_and_examples_add_up_over_the_rounds(folder: Path, test: Path):
    rows = run(experiment_of(rounds=3), FederatedData(dataset=test.parent, clients=folder)).round_rows()
    sums = np.cumsum([row["bytes_down"] + row["bytes_up"] for row in rows])
    assert [row["bytes_total"] for row in rows] == sums.tolist()


def test_a_cohort_larger_than_the_population_is_refused(folder: Path, test: Path):
    with pytest.raises(ParameterError, match=r"^federated\.clients_per_round: 6 exceeds the 5 clients$"):
        federate(folder, test, clients_per_round=6)


def test_a_run_is_its_rounds(folder: Path, test: Path):
    seen: list[int] = []
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment_of(rounds=2), data, on_round=lambda result: seen.append(result.history[-1].number))
    assert isinstance(result, Result)
    assert seen == [1, 2]
    [_, (state, last)] = federate(folder, test, rounds=2)
    assert same(result.state.parameters, state.parameters)
    assert [row["round"] for row in result.round_rows()] == [1, 2]
    assert result.round_rows()[-1]["examples_processed"] == result.figures()["examples_processed"]
    assert len(result.client_rows()) == 6
    assert last.test is not None
    assert result.figures()["accuracy"] == last.test.accuracy
    assert result.figures()["bytes_up"] == sum(row["bytes_up"] for row in result.round_rows())
