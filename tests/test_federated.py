"""Federated averaging is what the paper says, whatever runs it; and who takes part in it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpipe import shards
from fedpipe.aggregation import weighted_mean
from fedpipe.client import Broadcast, Client, ClientReport, Local, Task, Update
from fedpipe.datasets import load
from fedpipe.engines import Compute
from fedpipe.errors import UserError
from fedpipe.evaluation import evaluate
from fedpipe.federated import Work, run
from fedpipe.models import Parameters, initial_parameters, network_with, parameters_of
from fedpipe.randomness import generator
from fedpipe.shards import Shard
from fedpipe.strategies import ServerState
from fedpipe.strategies.fedavg import FedAvg
from fedpipe.training import train
from tests.federations import LOCAL, MODEL, SIZES, THREADS, federate, same, settings_of


def locally_trained(start: Parameters, folder: Path, round: int, client: int, seed: int) -> dict[str, np.ndarray]:
    """The client's model, from its file alone, by the training loop that test_training checks."""
    network = network_with(MODEL, start)
    list(
        train(
            network,
            *shards.read(shards.locate(folder)[client]),
            LOCAL,
            generator(seed, "batches", round=round, client=client),
        )
    )
    return {name: tensor.double().numpy() for name, tensor in parameters_of(network).items()}


def test_each_round_is_the_mean_of_the_cohorts_models_weighted_by_their_examples(folder: Path, test: Path):
    parameters = initial_parameters(MODEL, 11)
    torch.set_num_threads(1)
    for state, round in federate(folder, test):
        cohort = [report.client for report in round.clients]
        models = [locally_trained(parameters, folder, round.number, client, seed=11) for client in cohort]
        weights = np.array([SIZES[client] for client in cohort]) / sum(SIZES[client] for client in cohort)
        for name in parameters:
            expected = sum(weight * model[name] for weight, model in zip(weights, models, strict=True))
            np.testing.assert_allclose(state.parameters[name].double(), expected, atol=1e-6)
        parameters = state.parameters


def test_with_one_client_it_is_plain_training_with_a_fresh_optimiser_each_round(folder: Path, test: Path):
    previous = initial_parameters(MODEL, 11)
    for state, round in federate(folder, test, clients_per_round=1):
        expected = locally_trained(previous, folder, round.number, round.clients[0].client, seed=11)
        for name in expected:
            np.testing.assert_allclose(state.parameters[name].double(), expected[name], atol=1e-6)
        previous = state.parameters


def test_whole_shard_batches_of_all_clients_are_a_gradient_step_on_the_whole_data(folder: Path, test: Path):
    """McMahan et al. 2017, section 2: FedAvg with E=1, B=∞ and all clients is FedSGD."""
    local = Local(epochs=1, batch_size=None, optimizer="sgd", lr=0.1)
    start = initial_parameters(MODEL, 0)
    [(state, _)] = federate(folder, test, rounds=1, clients_per_round=5, seed=0, local=local)
    images, labels = (torch.cat(part) for part in zip(*map(shards.read, shards.locate(folder)), strict=True))
    network = network_with(MODEL, start)
    list(train(network, images, labels, local, generator(0, "any order")))
    for name, expected in parameters_of(network).items():
        torch.testing.assert_close(state.parameters[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_result_depends_neither_on_the_engine_nor_on_the_workers(folder: Path, test: Path, engine, workers: int):
    compute = Compute(engine=engine, workers=workers, device="cpu")
    for (one, a), (other, b) in zip(federate(folder, test), federate(folder, test, compute=compute), strict=True):
        assert same(one.parameters, other.parameters)
        assert a.clients == b.clients
        assert a.row() == b.row()


def test_the_result_does_not_depend_on_a_ray_node_that_is_lost_in_mid_round(folder: Path, test: Path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)

    def lose_the_second_node(report: ClientReport) -> None:
        if report.round == 2 and second in cluster.list_all_nodes():
            cluster.remove_node(second, allow_graceful=False)

    try:
        compute = Compute(engine="ray", ray_address=cluster.address, device="cpu")
        rounds = federate(folder, test, clients_per_round=5, compute=compute, on_client=lose_the_second_node)
        assert second not in cluster.list_all_nodes()
    finally:
        cluster.shutdown()
    for (one, a), (other, b) in zip(federate(folder, test, clients_per_round=5), rounds, strict=True):
        assert same(one.parameters, other.parameters)
        assert a.row() == b.row()


def test_the_result_does_not_depend_on_who_finishes_first(folder: Path, test: Path):
    work = Work(settings_of(rounds=2, clients_per_round=4), MODEL, 11, test)

    def backwards(shared: Broadcast, tasks: Iterable) -> Iterator:
        return reversed([work(shared, task) for task in reversed(list(tasks))])

    torch.set_num_threads(1)
    start = ServerState(0, initial_parameters(MODEL, 11))
    one = [state for state, _ in run(start, work, shards.locate(folder), len(load(test)), backwards)]
    other = [state for state, _ in federate(folder, test, rounds=2, clients_per_round=4)]
    assert same(one[-1].parameters, other[-1].parameters)


def test_bfloat16_trains_almost_as_float32_does(folder: Path, test: Path):
    half = Compute(engine="threads", workers=2, device="cpu", precision="bfloat16")
    (one, a), (other, b) = (federate(folder, test, rounds=4, compute=compute)[-1] for compute in (THREADS, half))
    assert not same(one.parameters, other.parameters)
    assert {tensor.dtype for tensor in other.parameters.values()} == {torch.float32}
    assert b.row()["test_accuracy"] == pytest.approx(a.row()["test_accuracy"], abs=0.05)


def test_going_on_from_a_round_gives_what_an_uninterrupted_run_gives(folder: Path, test: Path):
    whole = federate(folder, test)
    rest = federate(folder, test, state=whole[0][0])
    assert [round.number for _, round in rest] == [2, 3]
    assert same(whole[-1][0].parameters, rest[-1][0].parameters)


def test_another_seed_gives_another_model(folder: Path, test: Path):
    [(one, _)], [(other, _)] = (federate(folder, test, rounds=1, seed=seed) for seed in (1, 2))
    assert not same(one.parameters, other.parameters)


def test_a_client_reads_its_own_shard_alone(folder: Path, tmp_path: Path):
    own = shards.locate(folder)[2]
    alone = Shard(tmp_path / "alone.safetensors", own.start, own.stop)
    alone.path.write_bytes(own.path.read_bytes())
    start = initial_parameters(MODEL, 0)
    client = Client(FedAvg(), MODEL, LOCAL, seed=0)
    one, other = (client.train(Task(1, 2, shard, 2, 1.0), Broadcast(start)) for shard in (alone, own))
    assert one.report == other.report
    assert torch.equal(one.delta, other.delta)


def test_a_client_reports_what_its_model_does_on_its_own_shard(folder: Path):
    torch.set_num_threads(1)
    start = initial_parameters(MODEL, 0)
    shard = shards.locate(folder)[2]
    update = Client(FedAvg(), MODEL, LOCAL, seed=0).train(Task(1, 2, shard, 2, 1.0), Broadcast(start))
    pieces = update.delta.split([tensor.numel() for tensor in start.values()])
    trained = {name: start[name] + piece.view_as(start[name]) for name, piece in zip(start, pieces, strict=True)}
    own = evaluate(MODEL, trained, *shards.read(shard))
    assert update.report.examples == SIZES[2]
    assert update.report.accuracy == own.accuracy
    assert update.report.loss == pytest.approx(own.loss, rel=1e-4)


def test_what_is_evaluated_changes_no_model(folder: Path, test: Path):
    often = federate(folder, test)
    seldom = federate(folder, test, evaluate_every=2, evaluate_clients=False)
    assert same(often[-1][0].parameters, seldom[-1][0].parameters)
    assert [round.test is None for _, round in seldom] == [True, False, False]  # the last always is
    assert seldom[0][1].row()["test_accuracy"] is None
    for (_, one), (_, other) in zip(often[1:], seldom[1:], strict=True):
        assert one.row() == other.row()
    assert {report.loss for _, round in seldom for report in round.clients} == {None}


def test_training_learns(folder: Path, test: Path):
    results = [round.row()["test_accuracy"] for _, round in federate(folder, test, rounds=6, clients_per_round=5)]
    assert results[-1] > 0.85 > results[0]


def test_the_row_of_a_round_adds_up(folder: Path, test: Path):
    [(state, round)] = federate(folder, test, rounds=1)
    row = round.row()
    cohort = [int(client) for client in row["cohort"].split()]
    assert row["examples"] == sum(SIZES[client] for client in cohort)
    assert row["bytes_down"] == row["bytes_up"] == 3 * 28_938 * 4
    assert row["train_loss"] == pytest.approx(
        np.average([report.train_loss for report in round.clients], weights=[SIZES[client] for client in cohort])
    )
    examples = load(test)
    again = evaluate(MODEL, state.parameters, examples.images, examples.labels)
    assert row["test_accuracy"] == again.accuracy


def test_a_cohort_larger_than_the_population_is_refused(folder: Path, test: Path):
    with pytest.raises(
        UserError, match=r"params\.yaml: federated\.clients_per_round: 6 exceeds the 5 clients of the partition"
    ):
        federate(folder, test, clients_per_round=6)


# The mean


def update(examples: int, value: float) -> Update:
    report = ClientReport(1, 0, examples, 1, 0.0, None, None, 0, None, None)
    return Update(report, weight=examples, delta=torch.tensor([value]))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=20))
def test_the_mean_is_numpys_weighted_average(clients: list[tuple[int, float]]):
    examples, values = zip(*clients, strict=True)
    mean = weighted_mean(update(n, value) for n, value in clients).delta
    assert mean.item() == pytest.approx(np.average(values, weights=examples), rel=1e-9, abs=1e-9)
    assert mean.dtype == torch.float64


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(-1e3, 1e3, width=32))
def test_the_mean_of_equal_updates_is_that_update(examples: list[int], value: float):
    assert weighted_mean(update(n, value) for n in examples).delta.item() == pytest.approx(value, rel=1e-12)
