"""Privacy mechanisms bound what a client does to a release, add the noise that is accounted, and tell no more."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from fedpipe.config.mistakes import mistakes
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, run
from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.aggregation.mean import ExactSum
from fedpipe.federated.context import LocalTraining, ServerContext
from fedpipe.federated.mechanisms.clipped import ClippedSum, limit, on_grid, sigma, unit
from fedpipe.federated.mechanisms.gaussian import Gaussian, noise_multiplier_of_updates
from fedpipe.federated.mechanisms.tree import Tree
from fedpipe.federated.messages import Aggregate, ClientReport, Update
from fedpipe.federated.settings import Federated
from fedpipe.models import MODELS
from fedpipe.models.logistic import Logistic
from fedpipe.pipeline import Pipeline
from fedpipe.pipeline import mistakes as mistakes_of
from fedpipe.privacy import accountant
from fedpipe.privacy.accountant import gaussian_rounds
from fedpipe.privacy.noise import discrete_gaussian, reproducible
from fedpipe.system.errors import ParameterError
from fedpipe.system.randomness import generator
from tests.federations import SIZES, experiment_of, federate, same, start_of

D = 50_000
SGD = LocalTraining(epochs=1, batch_size=20, optimizer="sgd", lr=0.1)
# What either mechanism needs. With 5 clients, delta means nothing, and epsilon little.
NEEDED: dict[str, dict[str, Any]] = {
    "gaussian": {"privacy": "gaussian", "sampling": "poisson"},
    "tree": {"privacy": "tree", "sampling": "shuffled"},
}
COMMON: dict[str, Any] = {
    "objective": "clients", "evaluate_clients": False, "local": SGD, "clients_per_round": 2, "rounds": 4,
}  # fmt: skip


def private(mechanism: str, block: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The settings of a federation with a mechanism; the block has its parameters."""
    return {**COMMON, **NEEDED[mechanism], mechanism: dict(block or {}), "model": Logistic(), **changes}


def multiplied(z: float, **more: Any) -> dict[str, Any]:
    """The parameters of a mechanism with a noise multiplier."""
    return {"epsilon": None, "noise_multiplier": z, **more}


def sum_of(mechanism: Gaussian | Tree, cohort: int = 10) -> ClippedSum:
    return mechanism.aggregator(None, cohort, 100)


def update(client: int, delta: torch.Tensor, **more: Any) -> Update:
    return Update(client, 0.5, ClientReport(1, client, 10, 1, None, None, None, 0, None, None, None), delta, **more)


def added(aggregator: ClippedSum, deltas: Iterable[torch.Tensor]) -> ExactSum:
    total = aggregator.empty()
    for client, delta in enumerate(deltas):
        total = aggregator.add(total, update(client, delta))
    return total


def context(round: int = 1, state: dict[str, torch.Tensor] | None = None, d: int = D, clients: int = 100):
    return ServerContext(round, 3, 5, {} if state is None else state, d, clients)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(generator(seed, "vectors").normal(size=shape)).float()


# Clipping


numbers = st.floats(-(2.0**60), 2.0**60, width=32)
clips = st.floats(1e-9, 1e9)


@given(st.lists(numbers, min_size=1, max_size=20), clips)
def test_what_a_client_contributes_is_no_longer_than_the_clip_exactly(values: list[float], clip: float):
    on = on_grid(torch.tensor(values), clip).tolist()
    assert sum(number**2 for number in on) <= limit(clip) ** 2
    assert limit(clip) * Fraction(unit(clip)) <= Fraction(clip)
    assert 2**29 <= limit(clip) < 2**30


@given(st.lists(numbers, min_size=1, max_size=20), clips)
def test_a_contribution_is_the_clipped_update_to_two_units_of_the_grid(values: list[float], clip: float):
    vector = np.array(values, np.float32).astype(float)
    norm = np.linalg.norm(vector)
    expected = vector * min(1.0, clip / norm if norm else 1.0)
    on = on_grid(torch.tensor(values), clip).numpy() * unit(clip)
    assert np.all(np.abs(on) <= np.abs(expected) * (1 + 1e-12))  # towards zero
    np.testing.assert_allclose(on, expected, rtol=1e-8, atol=2 * unit(clip))


def test_an_update_of_a_real_models_size_is_clipped_as_exactly():
    """Of a million numbers: truncation shortens it by less than a thousandth of a thousandth."""
    on = on_grid(random(1_000_000), 1.0).numpy()
    norm = math.sqrt(sum(int(number) ** 2 for number in on)) * unit(1.0)
    assert 1 - 1e-6 < norm <= 1


def test_an_update_that_is_not_finite_contributes_nothing():
    aggregator = sum_of(Gaussian())
    total = added(aggregator, [torch.ones(3)])
    with pytest.raises(Refused, match=r"^its delta is not finite$"):
        aggregator.add(total, update(1, torch.tensor([1.0, math.nan, 0.0])))
    assert total.vectors["delta"].tolist() == on_grid(torch.ones(3), 1.0).tolist()


@pytest.mark.parametrize("besides", [
    {"buffers": {"mean": torch.zeros(1)}}, {"sums": {"mean": torch.zeros(3)}}, {"scalars": {"mean": 1.0}},
])  # fmt: skip
@pytest.mark.parametrize("mechanism", [Gaussian(), Tree()], ids=str)
def test_what_gets_no_noise_is_refused(mechanism: Gaussian | Tree, besides: dict[str, Any]):
    with pytest.raises(ParameterError, match=r"^federated\.privacy: \w+: clients also send mean, to which no noise"):
        sum_of(mechanism).contribution(update(0, torch.ones(3), **besides))


# Sums and noise


@pytest.mark.parametrize("mechanism", [Gaussian(), Gaussian(quantile=0.5), Tree()], ids=repr)
def test_neither_order_nor_grouping_changes_a_bit(mechanism: Gaussian | Tree):
    aggregator, deltas = sum_of(mechanism), list(random(6, 100) * 0.1)
    whole = aggregator.result(added(aggregator, deltas), context(d=100))
    parts = [added(aggregator, deltas[4:]), aggregator.empty(), added(aggregator, reversed(deltas[:4]))]
    total = aggregator.empty()
    for part in parts:
        total = aggregator.merge(total, ExactSum.decode(part.encode()))
    assert torch.equal(aggregator.result(total, context(d=100)).delta, whole.delta)


@pytest.mark.parametrize("z", [0.05, 0.7, 3.0, 900.0])
@pytest.mark.parametrize("clip", [1e-6, 0.3, 1.0, 1e6])
def test_the_noise_on_a_sum_has_the_standard_deviation_that_is_accounted(z: float, clip: float):
    """And Gaussian's shape: nobody took part, and what is released is z clip / cohort times it."""
    aggregator = sum_of(Gaussian(**multiplied(z, clip=clip)))
    noise = aggregator.result(aggregator.empty(), context()).delta.numpy() / (z * clip / 10)
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert np.std(noise) == pytest.approx(1, abs=5 / math.sqrt(2 * D))
    assert sigma(z, clip) - 1 >= Fraction(z) * limit(clip)  # the unit more is for the grid


def test_with_an_adaptive_clip_updates_get_more_noise():
    mechanism = Gaussian(**multiplied(1.0, quantile=0.5, quantile_noise=0.6))
    aggregator = sum_of(mechanism)
    noise = aggregator.result(aggregator.empty(), context()).delta.numpy() * 10
    expected = noise_multiplier_of_updates(1.0, 0.6)
    assert expected == pytest.approx(1.8091, abs=1e-4)  # (1 - 1.2^-2)^-1/2
    assert np.std(noise) == pytest.approx(expected, abs=5 * expected / math.sqrt(2 * D))


@pytest.mark.parametrize("mechanism", [Gaussian(), Tree()], ids=str)
def test_the_sum_is_divided_by_the_cohorts_size_whoever_answered(mechanism: Gaussian | Tree):
    aggregator, deltas = sum_of(mechanism), list(random(3, 1000) * 0.01)  # shorter than the clip
    noise = aggregator.result(aggregator.empty(), context(d=1000)).delta
    for answered in range(4):
        released = aggregator.result(added(aggregator, deltas[:answered]), context(d=1000)).delta
        expected = sum((delta.double() for delta in deltas[:answered]), torch.zeros(1000).double()) / 10
        torch.testing.assert_close(released - noise, expected, rtol=0, atol=3e-9)


@pytest.mark.parametrize("mechanism", [Gaussian(), Tree()], ids=str)
def test_a_client_changes_what_is_released_by_no_more_than_its_clip(mechanism: Gaussian | Tree):
    """However long its update is: the noise is as it was."""
    aggregator, others = sum_of(mechanism), list(random(5, 1000))
    without = aggregator.result(added(aggregator, others), context(d=1000)).delta
    for size in (1e-3, 1.0, 1e6, 1e30):
        mine = random(1000, seed=1) * size
        with_it = aggregator.result(added(aggregator, [*others, mine]), context(d=1000)).delta
        assert torch.linalg.vector_norm(with_it - without) <= 1.0 / 10 * (1 + 1e-12)


def test_reproducible_noise_is_a_rounds_own():
    aggregator = sum_of(Gaussian())

    def noise(round: int, seed: int = 5) -> Aggregate:
        return aggregator.result(aggregator.empty(), ServerContext(round, 0, seed, {}, 100, 100))

    assert torch.equal(noise(1).delta, noise(1).delta)
    assert not torch.equal(noise(1).delta, noise(2).delta)
    assert not torch.equal(noise(1).delta, noise(1, seed=6).delta)


@pytest.mark.parametrize("kind", [Gaussian, Tree])
def test_secret_noise_does_not_follow_from_the_seed(kind: type[Gaussian | Tree]):
    aggregator = sum_of(kind(noise="secret"))
    one, other = (aggregator.result(aggregator.empty(), context(d=100)).delta for _ in range(2))
    assert not torch.equal(one, other)


# The clip that adapts


def test_a_clip_adapts_as_the_paper_has_it():
    """C exp(-η (b - γ)): of 10 clients, 7 below it, and noise on their number that is drawn as its address says."""
    aggregator = sum_of(Gaussian(**multiplied(0.1, quantile=0.6, quantile_lr=0.3, quantile_noise=1.5, clip=2.0)))
    state: dict[str, torch.Tensor] = {}
    norms = [1.0] * 6 + [2.0] + [2.5] * 3  # the one that is as long as the clip is below it
    aggregator.result(added(aggregator, [torch.tensor([norm, 0.0]) for norm in norms]), context(state=state, d=2))
    bits = reproducible(generator(5, "privacy noise on the quantile", round=1))
    [noise] = discrete_gaussian(math.ceil(1.5 * 2**26) + 1, 1, bits) / 2**26
    below = (0.5 * 7 - 0.5 * 3 + noise) / 10 + 0.5
    assert state["clip"].item() == pytest.approx(2.0 * math.exp(-0.3 * (below - 0.6)), rel=1e-12)


@given(st.floats(0.1, 30), st.floats(1.01, 1000))
def test_sums_of_updates_and_of_bits_cost_together_what_one_release_does(z: float, factor: float):
    """The divergence of Gaussians goes with the square of 1 over the noise multiplier, and adds up."""
    quantile_noise = factor * z / 2
    updates = noise_multiplier_of_updates(z, quantile_noise)
    one, bits, joint = (accountant._rdp(gaussian_rounds(1.0, noise, 1)) for noise in (updates, 2 * quantile_noise, z))
    np.testing.assert_allclose(one + bits, joint, rtol=1e-9)
    assert updates > z


def test_bits_that_cost_everything_leave_nothing_for_updates():
    assert noise_multiplier_of_updates(2.0, 1.0) == math.inf


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_a_clip_comes_to_the_quantile(quantile: float):
    norms = np.sort(generator(0, "norms").lognormal(size=50))
    chosen = Gaussian(**multiplied(0.1, quantile=quantile, quantile_noise=1.0, clip=0.1))
    base, state = sum_of(chosen, cohort=50), dict[str, torch.Tensor]()
    clips = []
    for round in range(1, 61):
        aggregator = base.in_round(base.broadcast(state))
        total = added(aggregator, [torch.tensor([norm]) for norm in norms])
        aggregator.result(total, context(round, state, d=1))
        clips.append(state["clip"].item())
    below = np.mean(norms <= np.mean(clips[-20:]))
    assert below == pytest.approx(quantile, abs=0.06)


def test_the_noise_on_the_quantile_has_its_standard_deviation():
    """Of a federation in which nobody takes part: log(C' / C) / -η = γ-less noise over the cohort."""
    aggregator = sum_of(Gaussian(**multiplied(1.0, quantile=0.5, quantile_noise=3.0, quantile_lr=1.0)))
    noise = []
    for round in range(1, 1001):
        state: dict[str, torch.Tensor] = {}
        aggregator.result(aggregator.empty(), context(round, state, d=1))
        noise.append(-10 * math.log(state["clip"].item()))
    assert np.std(noise) == pytest.approx(3, abs=5 * 3 / math.sqrt(2 * 1000))
    assert stats.kstest(np.array(noise) / 3, "norm").pvalue > 1e-3


def test_everybody_learns_the_clip_of_the_round():
    base = sum_of(Gaussian(quantile=0.5, clip=2.0))
    assert base.broadcast({})["clip"].item() == 2.0
    [of_round] = [base.in_round(base.broadcast({"clip": torch.tensor(0.25, dtype=torch.float64)}))]
    assert of_round.contribution(update(0, torch.tensor([3.0, 4.0]))).vectors["delta"].tolist() == pytest.approx(
        [0.15 / unit(0.25), 0.2 / unit(0.25)], abs=1
    )
    assert sum_of(Gaussian()).broadcast({}) == {}


# The tree


@pytest.mark.parametrize("per_epoch", [1, 2, 5, 8, 13])
def test_the_noise_of_a_running_sum_is_that_of_its_nodes(per_epoch: int):
    """Recomputed of nodes that stand for ranges of rounds, each with the noise of the round that completes it."""
    z, clip, d = 0.7, 0.3, 200
    aggregator = sum_of(Tree(**multiplied(z, clip=clip)), cohort=10)
    state: dict[str, torch.Tensor] = {}

    def node(last_round: int) -> np.ndarray:
        bits = reproducible(generator(5, "privacy noise of a node", round=last_round))
        return discrete_gaussian(sigma(z, clip), d, bits)

    released = np.zeros(d)
    finished = np.zeros(d)  # what earlier epochs' trees came to
    for round in range(1, 3 * per_epoch + 1):
        released += aggregator.result(
            aggregator.empty(), context(round, state, d, clients=10 * per_epoch + 3)
        ).delta.numpy()
        before, t = (round - 1) // per_epoch * per_epoch, (round - 1) % per_epoch + 1
        expected, start = finished.copy(), 0
        for level in reversed(range(t.bit_length())):
            if t >> level & 1:
                start += 2**level
                expected += node(before + start)
        np.testing.assert_allclose(released, expected * unit(clip) / 10, rtol=1e-9, atol=1e-12)
        assert len(state) == t.bit_count() + 2  # and the epoch, and how many rounds of it were released
        if t == per_epoch:
            finished = expected


@given(st.sets(st.integers(1, 24)))
def test_after_skipped_rounds_the_noise_is_still_that_of_nodes_in_use_and_of_finished_trees(skipped: set[int]):
    """As where secure aggregation voids a round: even the first of an epoch, and no node is taken off twice."""
    clip, d, per_epoch = 0.3, 3, 8
    aggregator = sum_of(Tree(**multiplied(0.7, clip=clip)), cohort=10)
    state: dict[str, torch.Tensor] = {}
    released, finished, epoch = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.int64), 0
    for round in sorted(set(range(1, 25)) - skipped):
        nodes = {name: tensor for name, tensor in state.items() if name.isdigit()}
        if (round - 1) // per_epoch != epoch:
            epoch, finished = (round - 1) // per_epoch, finished + sum(nodes.values())
        released += aggregator.result(aggregator.empty(), context(round, state, d, clients=10 * per_epoch)).delta
        in_use = sum(tensor for name, tensor in state.items() if name.isdigit())
        torch.testing.assert_close(released, (finished + in_use).double() * unit(clip) / 10, rtol=1e-9, atol=1e-12)
        done = len(set(range(epoch * per_epoch + 1, round + 1)) - skipped)
        assert len(state) == done.bit_count() + 2


def test_the_noise_of_many_rounds_is_smaller_by_tree_than_by_round():
    """After 64 rounds: that of 1 node, where noise on each round has 8 times the standard deviation."""
    totals = {}
    for mechanism in (Gaussian(**multiplied(1.0)), Tree(**multiplied(1.0))):
        aggregator, state = sum_of(mechanism, cohort=1), dict[str, torch.Tensor]()
        released = [
            aggregator.result(aggregator.empty(), context(round, state, 2000, clients=64)).delta
            for round in range(1, 65)
        ]
        totals[str(mechanism)] = torch.stack(released).sum(0).std().item()
    assert totals["Tree"] == pytest.approx(1, abs=0.1)
    assert totals["Gaussian"] == pytest.approx(8, abs=0.8)


# What is refused


def refused(**settings: Any) -> list[str]:
    with pytest.raises(ValidationError) as error:
        Federated.model_validate(settings)
    return list(mistakes(error.value, Federated, "federated"))


DRAWN = "its epsilon holds if each client is drawn independently of the others"
HIDDEN = "which nothing bounds and no noise hides"
STOPS = "no epsilon accounts for the data by which training stops"


@pytest.mark.parametrize(("changes", "reason", "remedy"), [
    ({"objective": "examples"}, "an update would count by how many examples its client has", "clients"),
    ({"sampling": "uniform"}, DRAWN, "poisson"),
    ({"sampling": "shuffled"}, DRAWN, "poisson"),
    ({"aggregation": "median"}, "how far a client moves it has no bound that noise could hide", "mean"),
    ({"strategy": "scaffold"}, f"clients also send changes of control variates, {HIDDEN}", "fedavg"),
    ({"strategy": "feddyn"}, f"clients also send the regulariser's linear terms, {HIDDEN}", "fedavg"),
    ({"strategy": "fednova"}, f"clients also send the norms ‖a_k‖₁, {HIDDEN}", "fedavg"),
    ({"strategy": "q-fedavg"}, f"clients also send the scalars h_k, {HIDDEN}", "fedavg"),
    ({"attack": "alie"}, "attackers send on what they see of other clients, beyond the bound of one", "none"),
    ({"min_updates": 2}, "a round that is skipped tells how many clients were drawn", "1"),
    ({"evaluate_clients": True}, "clients would report on themselves", "false"),
    ({"on_bad_update": "stop"}, "training that ends would tell of one client", "refuse"),
    ({"target_accuracy": 0.9}, STOPS, "null"),
    ({"patience": 3}, STOPS, "null"),
])  # fmt: skip
def test_what_voids_the_promise_is_refused_by_a_sentence(changes: dict[str, Any], reason: str, remedy: str):
    good = {**COMMON, **NEEDED["gaussian"]}
    Federated.model_validate(good)
    [(parameter, value)] = changes.items()
    shown = "true" if value is True else value
    assert refused(**{**good, **changes}) == [
        f"federated.{parameter}: {shown} does not go with privacy gaussian: {reason}; {remedy} would do"
    ]


def test_the_tree_needs_another_sampling():
    assert refused(**{**COMMON, **NEEDED["gaussian"], "privacy": "tree"}) == [
        "federated.sampling: poisson does not go with privacy tree: its epsilon holds if no client takes part twice in "
        "an epoch; shuffled would do"
    ]


@pytest.mark.parametrize("mechanism", NEEDED)
@pytest.mark.parametrize(("block", "problem"), [
    ({"noise_multiplier": 1.0}, "it and noise_multiplier are both given; null for one of them would do"),
    ({"epsilon": None}, "neither it nor noise_multiplier is given; one of them would do"),
])  # fmt: skip
def test_either_epsilon_or_the_noise_is_given(mechanism: str, block: dict[str, Any], problem: str):
    found = refused(**{**COMMON, **NEEDED[mechanism], mechanism: block})
    assert found == [f"federated.{mechanism}.epsilon: {problem}"]


def test_all_that_voids_the_promise_is_told_at_once():
    """Of the defaults: a person should not have to run the check three times."""
    assert [line.split(":")[0] for line in refused(privacy="gaussian")] == [
        "federated.sampling", "federated.objective", "federated.evaluate_clients",
    ]  # fmt: skip


def pipeline_of(clients: int = 1000, model: str = "logistic", **federated: Any) -> Pipeline:
    settings = Federated.model_validate({**COMMON, **NEEDED["gaussian"], **federated})
    pipeline = Pipeline()
    return pipeline.model_copy(
        update={
            "federated": settings,
            "partition": pipeline.partition.model_copy(update={"clients": clients}),
            "model": pipeline.model.model_copy(update={"name": model}),
        }
    )


TREE: dict[str, Any] = {"privacy": "tree", "sampling": "shuffled"}
PUBLISHES = (
    "a mechanism that publishes one of the 1000 clients whole would satisfy it; less than 1 / 1000, or null, would do"
)


@pytest.mark.parametrize(("changes", "line"), [
    ({"gaussian": {"delta": 0.001}}, f"federated.gaussian.delta: 0.001: {PUBLISHES}"),
    (TREE | {"tree": {"delta": 0.5}}, f"federated.tree.delta: 0.5: {PUBLISHES}"),
    (
        {"gaussian": {"epsilon": 1e-6, "delta": 1e-9}},
        "federated.gaussian.epsilon: 1e-06: it takes noise of more than 1000 times the clip; a larger one, fewer "
        "rounds, or more clients would do",
    ),
    (
        {"gaussian": multiplied(2.0, quantile=0.5)},
        "federated.gaussian.quantile_noise: 0.1: both sums are one release with the noise multiplier 2, so that it "
        "must be more than half of that; 2 would do, or more clients_per_round",
    ),
    (
        {"model": "reference-bn-cnn"},
        "model.name: reference-bn-cnn does not go with federated.privacy gaussian: buffers such as norm1.running_mean "
        "would be averaged without noise; a model without them, or federated.strategy: fedbn, which keeps them at "
        "home, would do",
    ),
    ({"model": "reference-bn-cnn", "strategy": "fedbn"}, None),
    ({}, None),
])  # fmt: skip
def test_what_the_promise_cannot_be_kept_for_is_refused_by_the_check(changes: dict[str, Any], line: str | None):
    found = [str(mistake) for mistake in mistakes_of(pipeline_of(**changes))]
    assert found == ([] if line is None else [line])


# Trainings


def test_a_model_with_buffers_is_refused_where_it_was_not_checked(folder: Path, test: Path):
    settings = private("gaussian", rounds=1, clients_per_round=5, model=MODELS["reference-bn-cnn"]())
    with pytest.raises(ParameterError, match=r"clients also send .*running_mean"):
        federate(folder, test, **settings)


def test_normalisation_that_stays_at_home_is_no_release(folder: Path, test: Path):
    model, noise = MODELS["reference-bn-cnn"](), multiplied(0.1, clip=0.5)
    settings = private("gaussian", noise, rounds=2, strategy="fedbn", clients_per_round=5, model=model)
    state, _ = federate(folder, test, **settings)[-1]
    stayed = [name for name, tensor in start_of(model).items() if torch.equal(state.parameters[name], tensor)]
    assert stayed == [name for name in state.parameters if "norm" in name]


@pytest.mark.parametrize("mechanism", [*NEEDED, "adaptive"])
@pytest.mark.parametrize("compute", [
    Compute(engine="threads", workers=1, device="cpu"), Compute(engine="processes", workers=2, device="cpu"),
], ids=str)  # fmt: skip
def test_a_private_training_gives_the_same_bits_whatever_the_engine(
    mechanism: str, compute: Compute, folder: Path, test: Path
):
    settings = adaptive() if mechanism == "adaptive" else private(mechanism)
    expected, found = federate(folder, test, **settings)[-1], federate(folder, test, compute=compute, **settings)[-1]
    assert same(found[0].parameters, expected[0].parameters)
    assert found[1].row() == expected[1].row()


def adaptive(**changes: Any) -> dict[str, Any]:
    return private("gaussian", multiplied(0.5, quantile=0.5, quantile_noise=1.0), **changes)


@pytest.mark.parametrize("mechanism", [*NEEDED, "adaptive"])
def test_a_private_training_goes_on_from_a_round_exactly(mechanism: str, folder: Path, test: Path):
    settings = adaptive() if mechanism == "adaptive" else private(mechanism)
    whole = federate(folder, test, **settings)
    for done in (1, 2, 3):
        state = type(whole[0][0]).decode(whole[done - 1][0].encode())
        rest = federate(folder, test, state=state, **settings)
        assert same(rest[-1][0].parameters, whole[-1][0].parameters)
        assert [round.row() for _, round in rest] == [round.row() for _, round in whole[done:]]


def test_a_round_in_which_nobody_is_drawn_is_released_too(folder: Path, test: Path):
    """Else it would tell that nobody was: its noise alone."""
    settings = private("gaussian", multiplied(2.0, clip=0.1), rounds=12, clients_per_round=1)
    drawn = [Federated.model_validate({**COMMON, "sampling": "poisson", "clients_per_round": 1}).draw(
        SIZES, 1, 11, round
    ).drawn for round in range(1, 13)]  # fmt: skip
    assert () in drawn
    for _, round in federate(folder, test, **settings):
        assert not round.skipped
        assert round.aggregate_norm == pytest.approx(0.1 * 2 * math.sqrt(7850), rel=0.2)


def test_with_little_noise_a_round_is_the_sum_of_clipped_updates_over_the_cohorts_size(folder: Path, test: Path):
    """Where all take part, and dropout takes some of them: the denominator is what it was."""
    plain = private("gaussian", multiplied(0.05, clip=1e3), rounds=1, clients_per_round=5)
    [(state, _)] = federate(folder, test, **plain, dropout=0.5)
    public = {name: value for name, value in plain.items() if name not in ("privacy", "gaussian")}
    [(expected, round)] = federate(folder, test, **public, dropout=0.5)
    start = torch.cat([p.reshape(-1) for p in start_of(Logistic()).values()]).double()
    private_move = torch.cat([p.reshape(-1) for p in state.parameters.values()]).double() - start
    public_move = torch.cat([p.reshape(-1) for p in expected.parameters.values()]).double() - start
    answered = len(round.clients)
    assert 0 < answered < 5
    noise = private_move - public_move * answered / 5
    assert noise.std().item() == pytest.approx(0.05 * 1e3 / 5, rel=0.05)


@pytest.mark.parametrize("mechanism", NEEDED)
def test_reports_name_no_client_and_tell_not_how_many_took_part(mechanism: str, folder: Path, test: Path):
    data = FederatedData(dataset=test.parent, clients=folder)
    settings = private(mechanism, rounds=6, dropout=0.3, attack="sign-flip", attackers=0.4)
    result = run(experiment_of(**settings), data)
    for row in result.round_rows():
        assert [row[name] for name in ("cohort", "dropped", "lost", "refused")] == [""] * 4
        assert [row[name] for name in ("examples", "train_loss", "update_norm", "update_cosine")] == [None] * 4
        assert "hostile" not in row
    assert result.client_rows() == []
    for what in ("bytes_down", "bytes_up"):
        assert len({row[what] for row in result.round_rows()}) == 1
    each = sum(SIZES) // len(SIZES)
    assert [row["examples_processed"] for row in result.round_rows()] == [2 * each * round for round in range(1, 7)]
    assert all(not (round.cohort.drawn or round.clients or round.lost or round.refusals) for round in result.history)


def test_the_bytes_of_a_private_round_are_those_of_a_cohort_of_the_usual_size(folder: Path, test: Path):
    """Within the digits of the numbers that tasks and reports hold."""
    everybody: dict[str, Any] = {"clients_per_round": 5, "rounds": 1}
    [(_, hidden)] = federate(folder, test, **private("gaussian", **everybody))
    public = {**COMMON, **everybody, "sampling": "poisson", "model": Logistic()}
    [(_, told)] = federate(folder, test, **public)
    assert hidden.bytes_down == pytest.approx(told.bytes_down, abs=100)
    assert hidden.bytes_up == pytest.approx(told.bytes_up, abs=400)


@pytest.mark.parametrize("compression", ["top-k", "qsgd", "sign", "float16"])
def test_compressed_updates_are_clipped_after_they_are_decoded(compression: str, folder: Path, test: Path):
    """So that what is released is no longer than clip and noise, whatever decoding makes of an update."""
    settings = private("gaussian", multiplied(0.05, clip=1e-4), rounds=2, clients_per_round=5, compression=compression)
    plain = federate(folder, test, **{**settings, "compression": "none"})
    for (_, round), (_, uncompressed) in zip(federate(folder, test, **settings), plain, strict=True):
        noise = 0.05 * 1e-4 / 5 * math.sqrt(7850)
        assert round.aggregate_norm is not None
        assert round.aggregate_norm < 1e-4 + 1.1 * noise
        assert round.bytes_up < 0.6 * uncompressed.bytes_up


@pytest.mark.parametrize("mechanism", NEEDED)
def test_epsilon_grows_to_what_was_promised(mechanism: str, folder: Path, test: Path):
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment_of(**private(mechanism, {"epsilon": 3.0, "delta": 1e-4}, rounds=5)), data)
    rdp = [row["epsilon_rdp"] for row in result.round_rows()]
    assert rdp == sorted(rdp)
    spent = [row["epsilon_rdp" if mechanism == "tree" else "epsilon_pld"] for row in result.round_rows()]
    assert spent == sorted(spent)
    figures = result.figures()
    assert spent[-1] == figures["epsilon"] == result.headline()["epsilon"]
    assert 2.98 < figures["epsilon"] <= 3
    assert figures["delta"] == 1e-4
    assert figures["noise_multiplier"] > 0
    assert (figures["epsilon_pld"] is None) == (mechanism == "tree")


def test_epsilon_is_that_of_all_planned_rounds_if_training_ends_earlier(folder: Path, test: Path):
    settings = private("gaussian", {"clip": 1e6}, rounds=5)
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment_of(**settings), data)
    assert result.state.diverged
    assert len(result.history) < 5
    assert 7.98 < result.figures()["epsilon"] <= 8
    assert result.headline()["accuracy"] is None
    assert result.headline()["epsilon"] == result.figures()["epsilon"]


def test_without_privacy_nothing_is_said_of_epsilon(folder: Path, test: Path):
    settings = {**COMMON, "rounds": 1, "model": Logistic()}
    result = run(experiment_of(**settings), FederatedData(dataset=test.parent, clients=folder))
    told = {*result.round_rows()[0], *result.figures(), *result.headline()}
    assert not any(name.startswith(("epsilon", "delta", "clip", "noise")) for name in told)


def test_the_clip_that_adapts_is_told(folder: Path, test: Path):
    data = FederatedData(dataset=test.parent, clients=folder)
    result = run(experiment_of(**adaptive()), data)
    clips = [row["clip"] for row in result.round_rows()]
    assert clips[0] == 1.0
    assert len(set(clips)) == 4
    ratios = np.array(clips[1:]) / np.array(clips[:-1])
    assert np.all(ratios > 0)


def test_secret_cohorts_and_noise_are_new_each_time(folder: Path, test: Path):
    secret = private("gaussian", {"noise": "secret"}, rounds=2)
    one, other = (federate(folder, test, **secret)[-1][0] for _ in range(2))
    assert not same(one.parameters, other.parameters)
    took_part = {tuple(federate(folder, test, **secret)[-1][0].last_rounds.items()) for _ in range(12)}
    assert len(took_part) > 1


def test_reports_of_private_clients_are_bare(folder: Path, test: Path):
    heard: list[ClientReport] = []
    federate(folder, test, on_clients=heard.extend, **private("tree"))
    assert heard
    assert all(
        (report.train_loss, report.loss, report.accuracy, report.update_norm) == (None, None, None, None)
        for report in heard
    )


@pytest.mark.parametrize("mechanism", NEEDED)
def test_a_private_training_learns(mechanism: str, folder: Path, test: Path):
    """Five clients need so little noise that epsilon means nothing; it shows that signs and scales are right."""
    settings = private(mechanism, multiplied(0.05, clip=0.5), rounds=10, clients_per_round=5)
    accuracy = federate(folder, test, **settings)[-1][0].accuracy
    assert accuracy > 0.5
