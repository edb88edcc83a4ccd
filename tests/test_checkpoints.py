"""Checkpoints: an interrupted run goes on with the same bits as one that was not."""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from fedpipe import baseline
from fedpipe.data.datasets import Dataset, Split, save
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, Result, run
from fedpipe.federated.compression import COMPRESSIONS, COMPRESSIONS_DOWN, ENTROPY_CODINGS
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.state import ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.models.base import Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.settings import ModelChoice
from fedpipe.system.checkpoints import FOLDER, Checkpoints, checkpoints, in_project
from fedpipe.system.pace import Pace
from fedpipe.system.records import Record
from tests.federations import experiment_of
from tests.test_strategies import Normalised
from tests.test_transforms import STATEFUL

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)
ROUNDS = 5


class Interruption(Exception):
    """What ends a run in a test."""


def compute(engine: str, every: float = 0.0) -> Compute:
    return Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu", "checkpoint_every": every})


def outcome(result: Result) -> tuple[Any, ...]:
    """All that a stage writes of a result."""
    return (
        result.state.encode(),
        result.round_rows(),
        result.client_rows(),
        result.figures(),
        result.test.confusion.tolist(),
    )


def interrupted(
    folder: Path, test: Path, checkpoint: Path, *, after_clients: int, times: int = 1, **setting: Any
) -> tuple[Result, list[int]]:
    """The result of a run that ends again and again after so many updates; and after which rounds it went on."""
    data, resumed = FederatedData(dataset=test.parent, clients=folder), []
    for left in reversed(range(times + 1)):
        seen = 0

        def count(reports: Any, left: int = left) -> None:
            nonlocal seen
            seen += len(reports)
            if left and seen >= after_clients:
                raise Interruption

        try:
            result = run(
                experiment_of(**setting), data, checkpoint=checkpoint, on_clients=count,
                on_resume=lambda result: resumed.append(len(result.history)),
            )  # fmt: skip
        except Interruption:
            continue
        return result, resumed
    raise AssertionError("the last run is not interrupted")


def models(strategy: str) -> Model:
    return Normalised() if strategy == "fedbn" else Logistic()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_on_exactly(strategy: str, folder: Path, test: Path, tmp_path: Path):
    """Interrupted in the middle of rounds, twice."""
    rounds = 3 if strategy == "fedbn" else ROUNDS
    setting: dict[str, Any] = {
        "strategy": strategy, "rounds": rounds, "local": SGD, "model": models(strategy), "compute": compute("threads"),
    }  # fmt: skip
    whole, _ = interrupted(folder, test, tmp_path / "whole", after_clients=0, times=0, **setting)
    result, resumed = interrupted(folder, test, tmp_path / "part", after_clients=5, times=2, **setting)
    assert resumed == [1, 2]
    assert outcome(result) == outcome(whole)


SMALL_SPACE = {
    "transforms": ["none", "clip"],
    "sampling": ["uniform", "size", "poisson"],
    "dropout": [0.0, 0.5],
    "min_updates": [1, 3],
    "patience": [None, 1],
    "local": [SGD, SGD.model_copy(update={"optimizer": "adam", "lr": 0.001})],
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_configuration_of_a_small_space_is_refused_or_goes_on_exactly(
    strategy: str, folder: Path, test: Path, tmp_path: Path
):
    """Two rounds of each, ended somewhere.

    A third of the space with each strategy, and every configuration with a third of the strategies. Any three values
    meet in a third: it has all combinations of all but `sampling`, each with one of the three samplings.
    """
    chance, refused, equal = random.Random(strategy), 0, 0
    third = list(STRATEGIES).index(strategy) % 3
    for number, values in [*enumerate(itertools.product(*SMALL_SPACE.values()))][third::3]:
        setting: dict[str, Any] = dict(zip(SMALL_SPACE, values, strict=True)) | {
            "strategy": strategy, "rounds": 2, "model": models(strategy), "compute": compute("threads"),
        }  # fmt: skip
        try:
            experiment_of(**setting)
        except ValidationError:
            refused += 1
            continue
        whole, _ = interrupted(folder, test, tmp_path / f"whole{number}", after_clients=0, times=0, **setting)
        ends = {"after_clients": chance.randrange(1, 7), "times": chance.randrange(1, 4)}
        result, _ = interrupted(folder, test, tmp_path / f"part{number}", **ends, **setting)
        assert outcome(result) == outcome(whole), setting
        equal += 1
    assert (refused, equal) == ((16, 16) if strategy in ("feddyn", "q-fedavg") else (0, 32))


@given(data=st.data())
@settings(max_examples=int(os.environ.get("HUNT", "25")), deadline=None)
def test_a_run_goes_on_exactly_whatever_its_parameters_and_wherever_it_ended(
    data: st.DataObject, folder: Path, test: Path, tmp_path_factory: pytest.TempPathFactory
):
    draw = data.draw
    strategy = draw(st.sampled_from(["fedavg", "scaffold", "feddyn", "fedadam", "fedavgm"]))
    setting: dict[str, Any] = {
        "rounds": ROUNDS,
        "local": SGD,
        "model": Logistic(),
        "strategy": strategy,
        "compression": "none" if strategy == "feddyn" else draw(st.sampled_from([*COMPRESSIONS])),
        "compression_down": draw(st.sampled_from([*COMPRESSIONS_DOWN])),
        "entropy_coding": draw(st.sampled_from([*ENTROPY_CODINGS])),
        "dropout": draw(st.sampled_from([0.0, 0.5])),
        "sampling": draw(st.sampled_from(["uniform", "poisson"])),
        "min_updates": draw(st.sampled_from([1, 3])),
        "evaluate_every": draw(st.sampled_from([1, 2])),
        "patience": draw(st.sampled_from([None, 1])),
        "seed": draw(st.integers(0, 5)),
    }
    every = draw(st.sampled_from([0.0, 0.02, 1000.0]))
    ends = {"after_clients": draw(st.integers(1, 12)), "times": draw(st.integers(1, 3))}
    scratch = tmp_path_factory.mktemp("runs")
    whole, _ = interrupted(
        folder, test, scratch / "whole", after_clients=0, times=0, compute=compute("threads"), **setting
    )
    result, _ = interrupted(folder, test, scratch / "part", compute=compute("threads", every), **ends, **setting)
    assert outcome(result) == outcome(whole)


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
def test_state_on_both_sides_goes_on_exactly_on_every_engine(engine: str, folder: Path, test: Path, tmp_path: Path):
    setting = STATEFUL | {"compute": compute(engine), "rounds": ROUNDS}
    whole, _ = interrupted(folder, test, tmp_path / "whole", after_clients=0, times=0, **setting)
    result, resumed = interrupted(folder, test, tmp_path / "part", after_clients=7, **setting)
    assert resumed
    assert outcome(result) == outcome(whole)


def test_a_run_that_only_failed_to_be_written_trains_no_more(folder: Path, test: Path, tmp_path: Path):
    experiment = experiment_of(model=Logistic(), local=SGD, compute=compute("threads"))
    data, trained, ended = FederatedData(dataset=test.parent, clients=folder), [], []

    def disk_is_full(result: Result) -> None:
        ended.append(outcome(result))
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(experiment, data, checkpoint=tmp_path, on_end=disk_is_full)
    result = run(experiment, data, checkpoint=tmp_path, on_clients=trained.extend)
    assert not trained
    assert outcome(result) == ended[0]


def test_nothing_is_left_of_a_run_that_ended_well(folder: Path, test: Path, tmp_path: Path):
    interrupted(folder, test, tmp_path, after_clients=4, strategy="scaffold", local=SGD, model=Logistic())
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 12},
        {"rounds": 4},
        {"local": SGD.model_copy(update={"lr": 0.06})},
        {"strategy": "fedprox"},
        {"clients_per_round": 2},
    ],
)
def test_no_run_goes_on_from_another_ones_checkpoint(change: dict[str, Any], folder: Path, test: Path, tmp_path: Path):
    data = FederatedData(dataset=test.parent, clients=folder)
    setting: dict[str, Any] = {"model": Logistic(), "local": SGD, "compute": compute("threads")}

    def end(result: Result) -> None:
        if len(result.history) == 2:
            raise Interruption

    with pytest.raises(Interruption):
        run(experiment_of(**setting), data, checkpoint=tmp_path, on_round=end)
    resumed: list[Result] = []
    run(experiment_of(**setting | change), data, checkpoint=tmp_path, on_resume=resumed.append)
    assert not resumed
    run(experiment_of(**setting), data, checkpoint=tmp_path, on_resume=resumed.append)
    assert len(resumed) == 1


def test_how_it_is_computed_makes_no_other_run(folder: Path, test: Path, tmp_path: Path):
    """Interrupted with threads, it goes on with processes."""
    data = FederatedData(dataset=test.parent, clients=folder)
    setting: dict[str, Any] = {"model": Logistic(), "local": SGD}

    def end(result: Result) -> None:
        if len(result.history) == 2:
            raise Interruption

    whole = run(experiment_of(**setting, compute=compute("threads")), data)
    with pytest.raises(Interruption):
        run(experiment_of(**setting, compute=compute("threads")), data, checkpoint=tmp_path, on_round=end)
    resumed: list[Result] = []
    result = run(
        experiment_of(**setting, compute=compute("processes")), data, checkpoint=tmp_path, on_resume=resumed.append
    )
    assert [len(each.history) for each in resumed] == [1]
    assert outcome(result) == outcome(whole)


ADAM, SGD_ALONE = {"optimizer": "adam"}, {"optimizer": "sgd"}
MOMENTUM, CLIPPED = SGD_ALONE | {"momentum": 0.9}, SGD_ALONE | {"clip_norm": 0.1}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        *(("logistic", changes) for changes in (ADAM, SGD_ALONE, MOMENTUM, CLIPPED)),
        ("2nn", SGD_ALONE),
        ("2nn", ADAM),
        ("reference-bn-cnn", ADAM),
    ],
)
def test_the_baseline_goes_on_exactly(changes: dict[str, Any], model: str, sample: Dataset, tmp_path: Path):
    experiment = baseline.CentralisedExperiment.model_validate(
        {
            "seed": 3, "model": ModelChoice(name=model), "compute": {"device": "cpu", "checkpoint_every": 0.0},
            "baseline": {"epochs": 4, "batch_size": 32, "lr": 0.01, **changes},
        }
    )  # fmt: skip
    dataset = tmp_path / "data"
    save(replace(sample, train=Split(sample.train.images[::8], sample.train.labels[::8])), dataset)

    def all_of(result: baseline.Result) -> Any:
        parameters = {name: tensor.tolist() for name, tensor in result.parameters.items()}
        return parameters, result.epoch_rows(), result.figures(), result.test.confusion.tolist()

    def end(result: baseline.Result) -> None:
        if len(result.epochs) == 3:
            raise Interruption

    whole = baseline.run(experiment, dataset)
    with pytest.raises(Interruption):
        baseline.run(experiment, dataset, checkpoint=tmp_path / "part", on_epoch=end)
    resumed: list[baseline.Result] = []
    result = baseline.run(experiment, dataset, checkpoint=tmp_path / "part", on_resume=resumed.append)
    assert [len(each.epochs) for each in resumed] == [2]
    assert all_of(result) == all_of(whole)


# The files


@dataclass(frozen=True)
class Sum(Record):
    """A state in tests: the sum of the steps."""

    total: int
    vector: Tensor


@dataclass(frozen=True)
class Summand(Record):
    """A step in tests."""

    number: int


def saved(folder: Path, steps: int, seconds: float = 0.0) -> Checkpoints[Sum, Summand]:
    """Checkpoints of a run of so many steps that was ended."""
    folder.mkdir(parents=True, exist_ok=True)
    one = Checkpoints(folder, Sum, Summand, seconds)
    begun = one.load()
    total, done = (begun[0].total, len(begun[1])) if begun else (0, 0)
    for number in range(done + 1, steps + 1):
        total += number
        one.save(number, Sum(total, torch.full((1000,), float(total))), Summand(number))
    return one


def loaded(folder: Path) -> tuple[int, list[int]] | None:
    begun = Checkpoints(folder, Sum, Summand).load()
    if not begun:
        return None
    state, steps = begun
    assert torch.equal(state.vector, torch.full((1000,), float(state.total)))
    return state.total, [step.number for step in steps]


def test_the_newest_state_comes_back_with_what_all_steps_did(tmp_path: Path):
    saved(tmp_path, 4)
    assert loaded(tmp_path) == (10, [1, 2, 3, 4])


def test_two_generations_are_kept(tmp_path: Path):
    assert saved(tmp_path, 1).oldest == 0
    assert saved(tmp_path, 7).oldest == 6
    assert sorted(file.name for file in tmp_path.glob("*.checkpoint")) == ["000006.checkpoint", "000007.checkpoint"]


def cut(data: bytes, place: int) -> bytes:
    return data[:place]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def zeroed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes(len(data) - place)


@given(damage=st.sampled_from([cut, flipped, zeroed]), place=st.floats(0, 1, exclude_max=True))
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    damage: Callable[[bytes, int], bytes], place: float, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("damaged")
    saved(folder, 5)
    newest = folder / "000005.checkpoint"
    data = newest.read_bytes()
    damaged = damage(data, int(place * len(data)))
    newest.write_bytes(damaged)
    assert loaded(folder) == ((15, [1, 2, 3, 4, 5]) if damaged == data else (10, [1, 2, 3, 4]))
    assert loaded(folder) is not None
    saved(folder, 6)
    assert loaded(folder) == (21, [1, 2, 3, 4, 5, 6])


@given(damage=st.sampled_from([cut, flipped, zeroed]), place=st.floats(0, 1, exclude_max=True))
@example(damage=flipped, place=0.80078125)  # in the last step's length, of which there is less
def test_of_a_damaged_history_what_is_before_the_damage_is_used_or_nothing(
    damage: Callable[[bytes, int], bytes], place: float, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("damaged")
    saved(folder, 5)
    history = folder / "history"
    data = history.read_bytes()
    damaged = damage(data, int(place * len(data)))
    history.write_bytes(damaged)
    whole = len(data) // 5
    intact = 5 if damaged == data else int(place * len(data)) // whole
    expected = {5: (15, [1, 2, 3, 4, 5]), 4: (10, [1, 2, 3, 4])}
    assert loaded(folder) == expected.get(intact)
    saved(folder, 6)
    assert loaded(folder) == (21, [1, 2, 3, 4, 5, 6])


def test_what_a_failed_save_left_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full while the history grows, and has room again later."""
    one = saved(tmp_path, 2)
    fsync = os.fsync

    def no_space(file: int) -> None:
        fsync(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        one.save(3, Sum(6, torch.full((1000,), 6.0)), Summand(3))
    assert loaded(tmp_path) == (3, [1, 2])
    monkeypatch.undo()
    one.save(4, Sum(10, torch.full((1000,), 10.0)), Summand(4))
    assert loaded(tmp_path) == (10, [1, 2, 3, 4])


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedpipe.system.pace.time", clock)
    return clock


def test_short_steps_are_saved_together(tmp_path: Path, clock: Clock):
    one = saved(tmp_path, 0, seconds=1.0)
    for number in range(1, 9):
        clock.now += 0.4
        one.save(number, Sum(number, torch.full((1000,), float(number))), Summand(number))
    assert loaded(tmp_path) == (6, [1, 2, 3, 4, 5, 6])  # 1.2 s and 2.4 s after the beginning


def test_two_processes_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedpipe.system.checkpoints.PATIENCE", 0.3)
    with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0) as first:
        assert first.own_files
        with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0) as second:
            assert second.own_files is None
            second.save(1, Sum(1, torch.zeros(1000)), Summand(1))
            second.finish()
            assert first.load() is None
        with checkpoints(tmp_path, lambda: "that", Sum, Summand, 0.0) as other:
            assert other.own_files
    with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0) as again:
        assert again.own_files


def test_a_run_waits_for_the_last_one_to_end(tmp_path: Path):
    """As long as a stage needs that ends because DVC did."""
    leave = threading.Event()

    def hold() -> None:
        with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0) as first:
            leave.wait()
            first.finish()

    holder = threading.Thread(target=hold)
    holder.start()
    threading.Timer(0.4, leave.set).start()
    with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0) as second:
        assert second.own_files
    holder.join()


def test_a_run_that_is_over_goes_on_from_its_end_until_its_result_is_recorded(tmp_path: Path):
    """As when DVC is killed while it records a stage; it writes its lock file even if nothing in it changes."""
    lock, root = tmp_path / "dvc.lock", tmp_path / "checkpoints"
    lock.write_text("stages: {}\n")

    def steps_done() -> int:
        with checkpoints(root, lambda: "this", Sum, Summand, 0.0) as run:
            begun = run.load()
            if not begun:
                run.save(1, Sum(1, torch.zeros(1000)), Summand(1))
            run.finish(lock)
            return len(begun[1]) if begun else 0

    assert [steps_done(), steps_done(), steps_done()] == [0, 1, 1]
    lock.write_text("stages: {}\n")
    assert [steps_done(), steps_done()] == [0, 1]
    lock.write_text("stages: {}\n")
    with checkpoints(root, lambda: "another", Sum, Summand, 0.0):
        assert len(list(root.glob("*/"))) == 1


def test_what_nobody_went_on_with_for_a_month_is_deleted(tmp_path: Path):
    for name, days in (("old", 31), ("new", 29)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000001.checkpoint").write_bytes(b"x")
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    with checkpoints(tmp_path, lambda: "this", Sum, Summand, 0.0):
        assert not (tmp_path / "old").exists()
        assert (tmp_path / "new").exists()


def test_experiments_in_copies_of_a_project_keep_their_checkpoints_in_the_project(tmp_path: Path):
    assert in_project(tmp_path) == tmp_path / FOLDER
    assert in_project(tmp_path / ".dvc/tmp/exps/tmp123/") == tmp_path / FOLDER
    assert in_project(tmp_path / ".dvc/tmp/exps/standalone/tmp123/") == tmp_path / FOLDER


@pytest.mark.parametrize(("cost", "times"), [(0.0, 100), (0.01, 100), (0.1, 20), (1.0, 2)])
def test_a_pace_takes_at_most_its_share_of_the_time(cost: float, times: int, clock: Clock):
    """Of what costs 0.1 s, that is once in 5 s."""
    pace, taken = Pace(1.0), 0
    while clock.now < 100.5:
        clock.now += 0.25
        with pace.turn() as due:
            taken += due
            clock.now += due * cost
    assert times * 0.75 <= taken <= times
    assert taken * cost <= 0.02 * clock.now + cost


def test_a_pace_of_no_seconds_is_always_due():
    pace = Pace(0.0)
    for _ in range(3):
        with pace.turn() as due:
            assert due


def test_a_server_state_comes_back_from_its_bytes():
    """Its clients' numbers are numbers again, and infinity is infinity."""
    state = ServerState(3, {"w": torch.randn(4)}, {"m": torch.randn(4)}, {"t": {"s": torch.randn(2)}}, {7: 3, 12: 2})
    again = ServerState.decode(state.encode())
    assert again.encode() == state.encode()
    assert again.last_rounds == {7: 3, 12: 2}
    assert again.best_loss == float("inf")
