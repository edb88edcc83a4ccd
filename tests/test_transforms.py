"""Transforms act between training and the sum, and between the sum and the server's step."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from torch import Tensor

from fedpipe.engines import Compute
from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.attacks import ATTACKS
from fedpipe.federated.context import ClientContext, LocalTraining, ServerContext
from fedpipe.federated.messages import Aggregate, ClientReport, Update
from fedpipe.federated.mixing import MIXINGS
from fedpipe.federated.rounds import Round
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ClientStates, ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.federated.transforms import TRANSFORMS
from fedpipe.federated.transforms.base import Chain, Transform
from fedpipe.federated.transforms.clip import Clip
from fedpipe.models.logistic import Logistic
from fedpipe.models.parameters import flat
from fedpipe.models.reference_cnn import ReferenceBatchNormCNN
from tests.federations import MNIST, client_of, federate, first_round, same, start_of, task_of, weights_of

SGD = LocalTraining(epochs=2, batch_size=32, optimizer="sgd", lr=0.05)


class SignWithErrorFeedback(Transform):
    """Each number's sign times their mean size; what that loses is added next time. Karimireddy et al. 2019,
    arXiv:1901.09847.
    """

    has_client_state = True

    def on_client(self, update: Update, context: ClientContext) -> Update:
        wanted = update.delta + context.remembered("residual")
        sent = wanted.sign() * wanted.abs().mean()
        context.state["residual"] = wanted - sent
        return replace(update, delta=sent)


class Momentum(Transform):
    """The server smooths the aggregate over rounds, with a little noise."""

    beta: float = Field(default=0.5, description="decay")

    def on_server(self, aggregate: Aggregate, context: ServerContext) -> Aggregate:
        noise = torch.from_numpy(context.generator("noise").normal(scale=1e-4, size=len(aggregate.delta)))
        smooth = self.beta * context.state.get("smooth", torch.zeros(())) + (1 - self.beta) * aggregate.delta + noise
        context.state["smooth"] = smooth
        return replace(aggregate, delta=smooth)


class Stateful(Federated):
    """Settings with a chain that is not in the table: state on clients and on the server."""

    @property
    def chain(self) -> Chain:
        return Chain({"sign": SignWithErrorFeedback(), "momentum": Momentum()})


STATEFUL: dict[str, Any] = {"kind": Stateful, "model": Logistic(), "local": SGD, "rounds": 4}


def deltas_of(rounds: list[tuple[ServerState, Round]], start: Mapping[str, Tensor]) -> list[np.ndarray]:
    """What each round moved the model by."""
    vectors = [flat(parameters.values()).double().numpy() for parameters in (start, *(s.parameters for s, _ in rounds))]
    return [after - before for before, after in pairwise(vectors)]


# The seam


def test_state_on_both_sides_does_what_the_transforms_say(folder: Path, test: Path, tmp_path: Path):
    """Transcribed in NumPy, on what clients of the same federation without transforms would send."""
    start = start_of(Logistic())
    rounds = federate(folder, test, states=tmp_path / "a", **STATEFUL)
    plain = client_of(
        folder, tmp_path / "b", seed=11, architecture=Logistic().on(MNIST), local=SGD, clients_per_round=3
    )
    torch.set_num_threads(1)
    residuals: dict[int, np.ndarray] = {}
    smooth, parameters = np.zeros(7850), start
    for (state, round), moved in zip(rounds, deltas_of(rounds, start), strict=True):
        sent = []
        for report in round.clients:
            broadcast = replace(first_round(parameters), round=round.number)
            delta = plain.update(broadcast, task_of(report.client)).delta.double().numpy()
            wanted = delta + residuals.get(report.client, 0.0)
            sent.append(np.sign(wanted) * np.abs(wanted).mean())
            residuals[report.client] = wanted - sent[-1]
        noise = ServerContext(round.number, 3, 11, {}).generator("noise").normal(scale=1e-4, size=7850)
        mean = np.average(sent, axis=0, weights=weights_of([report.client for report in round.clients]))
        smooth = 0.5 * smooth + 0.5 * mean + noise
        np.testing.assert_allclose(moved, smooth, atol=1e-6)
        np.testing.assert_allclose(state.transforms["momentum"]["smooth"], smooth, atol=1e-6)
        parameters = state.parameters
    for client, number in rounds[-1][0].last_rounds.items():
        found = ClientStates(tmp_path / "a").read(client, number)["sign"]["residual"]
        np.testing.assert_allclose(found, residuals[client], atol=1e-6)


@pytest.mark.parametrize(("engine", "workers"), [("threads", 1), ("threads", 3), ("processes", 3), ("ray", 2)])
def test_state_is_the_same_on_every_engine(engine: Any, workers: int, folder: Path, test: Path, tmp_path: Path):
    compute = Compute(engine=engine, workers=workers, device="cpu")
    found = federate(folder, test, states=tmp_path / "a", compute=compute, **STATEFUL)[-1]
    expected = federate(folder, test, states=tmp_path / "b", **STATEFUL)[-1]
    assert same(found[0].parameters, expected[0].parameters)
    assert torch.equal(found[0].transforms["momentum"]["smooth"], expected[0].transforms["momentum"]["smooth"])
    assert found[1].row() == expected[1].row()


def test_a_transform_knows_nothing_of_what_stays_at_home(folder: Path, test: Path, tmp_path: Path):
    """FedBN with error feedback: residuals are of what is sent."""
    setting = STATEFUL | {"strategy": "fedbn", "model": ReferenceBatchNormCNN(), "rounds": 2}
    state, _ = federate(folder, test, states=tmp_path, **setting)[-1]
    for client, number in state.last_rounds.items():
        states = ClientStates(tmp_path).read(client, number)
        assert states["sign"]["residual"].shape == (28_938,)
        assert states["stays at home"]["norm1.weight"].shape == (16,)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_goes_on_exactly_with_state_on_both_sides(stop: int, folder: Path, test: Path, tmp_path: Path):
    whole = federate(folder, test, states=tmp_path / "whole", **STATEFUL)
    part = federate(folder, test, states=tmp_path / "part", stop=stop, **STATEFUL)
    rest = federate(folder, test, states=tmp_path / "part", state=part[-1][0], **STATEFUL)
    assert same(whole[-1][0].parameters, rest[-1][0].parameters)
    assert whole[-1][1].row() == rest[-1][1].row()


def test_on_a_client_transforms_act_in_order_and_on_the_server_in_reverse():
    class Noted(Transform):
        name: str = Field(description="its name")

        def on_client(self, update: Update, context: ClientContext) -> Update:
            return replace(update, scalars={**update.scalars, self.name: float(len(update.scalars))})

        def on_server(self, aggregate: Aggregate, context: ServerContext) -> Aggregate:
            return replace(aggregate, scalars={**aggregate.scalars, self.name: float(len(aggregate.scalars))})

    chain = Chain({name: Noted(name=name) for name in ("a", "b", "c")})
    update, _ = chain.on_client(update_of([1.0]), context_of(), {})
    aggregate, _ = chain.on_server(Aggregate(torch.zeros(1)), 1, 1, 0, {})
    assert update.scalars == {"x": 3.0, "a": 1.0, "b": 2.0, "c": 3.0}
    assert aggregate.scalars == {"c": 0.0, "b": 1.0, "a": 2.0}


def test_a_skipped_round_leaves_the_servers_state_as_it_was(folder: Path, test: Path, tmp_path: Path):
    setting = STATEFUL | {"rounds": 8, "clients_per_round": 5, "dropout": 0.5, "min_updates": 3}
    before, skipped = None, 0
    for state, round in federate(folder, test, states=tmp_path, **setting):
        if round.skipped and before:
            skipped += 1
            assert state.transforms is before.transforms
            assert state.last_rounds == before.last_rounds
        before = state
    assert skipped


# The table


def context_of() -> ClientContext:
    return ClientContext(1, 0, 1.0, SGD, torch.zeros(1), {}, start_loss=lambda: 1.0, seed=0)


def update_of(delta: list[float]) -> Update:
    report = ClientReport(1, 0, 10, 1, 0.0, None, None, 0, None, None)
    return Update(0, 1.0, report, torch.tensor(delta), buffers={"b": torch.tensor(5.0)}, scalars={"x": 3.0})


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), st.floats(1e-3, 1e3))
def test_clip_bounds_the_norm_and_keeps_the_direction(delta: list[float], norm: float):
    clipped = Clip(norm=norm).on_client(update_of(delta), context_of())
    before = np.linalg.norm(np.array(delta))
    assert clipped.norm() <= norm * (1 + 1e-6)
    np.testing.assert_allclose(
        clipped.delta, np.array(delta) * min(1.0, norm / max(before, 1e-30)), rtol=1e-5, atol=1e-30
    )
    if before <= norm:
        assert clipped.delta.tolist() == torch.tensor(delta).tolist()
    assert (clipped.buffers["b"].item(), clipped.scalars) == (5.0, {"x": 3.0})


def test_clip_is_chosen_by_its_name_and_takes_its_parameter(folder: Path, test: Path, tmp_path: Path):
    setting: dict[str, Any] = {"model": Logistic(), "local": SGD, "rounds": 1, "clients_per_round": 1}
    [free], [held] = (
        deltas_of(federate(folder, test, states=tmp_path, **setting, **more), start_of(Logistic()))
        for more in ({}, {"transforms": "clip", "clip": {"norm": 0.01}})
    )
    assert np.linalg.norm(free) > 0.1
    np.testing.assert_allclose(held, free * 0.01 / np.linalg.norm(free), atol=1e-8)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_transform_goes_with_every_strategy_or_is_refused_by_a_sentence(
    transform: str, strategy: str, folder: Path, test: Path, tmp_path: Path
):
    broken = STRATEGIES[strategy].transforms_break
    if broken:
        with pytest.raises(ValidationError, match=f"transforms: {transform} does not go with strategy {strategy}: "):
            Federated(strategy=strategy, transforms=transform)
        return
    results = [
        federate(
            folder, test, states=tmp_path / engine, strategy=strategy, transforms=transform, model=Logistic(),
            local=SGD,
            compute=Compute(engine=engine, workers=2, device="cpu"),
        )[-1]
        for engine in ("threads", "processes")
    ]  # fmt: skip
    assert same(results[0][0].parameters, results[1][0].parameters)
    assert results[0][1].row() == results[1][1].row()


def test_names_of_strategies_aggregators_transforms_mixings_and_attacks_differ():
    """Their blocks stand side by side."""
    tables = [TRANSFORMS, STRATEGIES, AGGREGATORS, MIXINGS, ATTACKS]
    names = [name for table in tables for name, kind in table.items() if kind.model_fields]
    assert len(set(names)) == len(names)
    assert set(names) <= Federated.model_fields.keys()


@pytest.mark.parametrize("value", ["clp", "clip+clip", "", "clip+", "none+clip"])
def test_what_is_no_chain_of_transforms_is_refused(value: str):
    with pytest.raises(
        ValidationError, match=f"must be none, or some of {', '.join(TRANSFORMS)} joined with|names a transform twice"
    ):
        Federated(transforms=value)
