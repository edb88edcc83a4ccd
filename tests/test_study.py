"""A study is a file: checked as a whole, run on all cores, kept run by run, and shown from what is recorded."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

import fedpipe
from fedpipe.config.template import as_yaml
from fedpipe.data import datasets
from fedpipe.data.datasets import Dataset
from fedpipe.pipeline import Pipeline, inputs
from fedpipe.studies import commands
from fedpipe.studies import plan as planning
from fedpipe.studies.commands import check_study, results_of, run_study, show_study
from fedpipe.studies.plan import Plan, Run
from fedpipe.studies.records import Record, Store
from fedpipe.studies.study import Study, read_study
from fedpipe.system.errors import UserError
from tests import conftest
from tests.conftest import ROOT, Reproduced

SMALL: dict[str, Any] = {
    "model.name": "logistic",
    "partition.clients": 5,
    "federated.rounds": 2,
    "federated.clients_per_round": 2,
    "federated.local.epochs": 1,
    "federated.local.batch_size": 20,
    "federated.local.optimizer": "sgd",
    "federated.local.lr": 0.05,
}
STUDY: dict[str, Any] = {
    "question": "Which one?",
    "base": SMALL,
    "grid": {
        "partition": {
            "iid": {"partition.scheme": "iid"},
            "few labels": {"partition.scheme": "shards", "partition.shards.per_client": 2},
        },
        "federated.strategy": ["fedavg", "scaffold"],
    },
    "seeds": [1, 2],
}
DEFAULTS = as_yaml(Pipeline())
TUNE = {"grid": {"federated.local.lr": [0.01, 0.1, 1.0]}, "seeds": [7, 8], "keep": 2}


@pytest.fixture
def validated(project: Path, sample: Dataset) -> Path:
    """The same project, with a part of the training examples held back for validation."""
    few = sample.train.at(torch.arange(0, len(sample.train), 6))
    train, validation = few.at(torch.arange(100, len(few))), few.at(torch.arange(100))
    datasets.save(replace(sample, train=train, validation=validation), project / "data/dataset")
    return project


@pytest.fixture
def project(sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, with the parameters' defaults and a small part of the sample as its data set."""
    monkeypatch.chdir(tmp_path)
    return lay_out(sample, tmp_path)


@pytest.fixture(scope="module")
def ran(sample: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the study has run."""
    folder = lay_out(sample, tmp_path_factory.mktemp("ran"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_study(write())
    return folder


@pytest.fixture
def finished(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    folder = tmp_path / "finished"
    shutil.copytree(ran, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def lay_out(sample: Dataset, folder: Path) -> Path:
    train, test = (split.at(torch.arange(0, len(split), 6)) for split in (sample.train, sample.test))
    datasets.save(replace(sample, train=train, test=test), folder / "data/dataset")
    (folder / "params.yaml").write_text(DEFAULTS)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/plots").symlink_to(ROOT / ".dvc/plots")
    return folder


def write(changes: Mapping[str, Any] = {}, name: str = "studies/small.yaml") -> Path:
    """Write a study that differs from STUDY in these keys, by dotted path; None removes one."""
    study = json.loads(json.dumps(STUDY))
    for path, value in changes.items():
        *blocks, last = path.split("/")
        block = study
        for key in blocks:
            block = block[key]
        block[last] = value
        if value is None:
            del block[last]
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    YAML().dump(study, path)
    return path


def planned(changes: Mapping[str, Any] = {}) -> Plan:
    path = write(changes)
    return Plan(read_study(path), path)


def read(name: str) -> list[dict[str, str]]:
    """The rows of one of the study's tables."""
    with Path("studies/small", name).open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: str = "studies/small") -> dict[str, str]:
    """The files of the results that do not tell how long runs took, and runs.csv without what does.

    The page of the study tells it too.
    """
    runs = pd.read_csv(f"{folder}/runs.csv", dtype=str).drop(columns="seconds").to_csv()
    return {"runs": runs} | {
        file.name: file.read_bytes().hex()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file() and file.name not in ("runs.csv", "report.html")
    }


class TestPlan:
    """Which runs a study consists of."""

    def test_the_runs_are_the_product_of_the_axes_and_the_seeds_seed_by_seed(self, project: Path):
        plan = planned()
        runs = plan.runs({})
        expected = list(product([1, 2], ["iid", "few labels"], ["fedavg", "scaffold"]))
        assert [(run.seed, *run.labels.values()) for run in runs] == expected
        assert plan.total == len(expected)
        for run in runs:
            assert run.pipeline.seed == run.seed
            assert run.pipeline.federated.strategy == run.labels["federated.strategy"]
            assert run.pipeline.partition.scheme == {"iid": "iid", "few labels": "shards"}[run.labels["partition"]]
            assert (run.pipeline.model.name, run.pipeline.federated.rounds) == ("logistic", 2)

    def test_the_parameters_that_it_does_not_set_are_those_of_params_yaml(self, project: Path):
        before = planned().runs({})[0]
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(text.replace("lr_decay: 1.0", "lr_decay: 0.9"))
        after = planned().runs({})[0]
        assert (before.pipeline.federated.local.lr_decay, after.pipeline.federated.local.lr_decay) == (1.0, 0.9)
        assert before.key != after.key

    @pytest.mark.parametrize(
        "changes",
        [
            {"base/federated.local.lr": 0.06},
            {"base/partition.clients": 6},
            {"base/federated.rounds": 3},
            {"base/model.name": "2nn"},
            {"base/compute.precision": "bfloat16"},
            {"seeds": [3, 4]},
        ],
    )
    def test_another_value_of_what_counts_makes_another_run(self, project: Path, changes: Mapping[str, Any]):
        assert not keys() & keys(changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"question": "Or is it that one?"},
            {"base/federated.fedprox.mu": 0.5},
            {"base/partition.dirichlet.alpha": 0.3},
            {"base/compute.workers": 1},
            {"base/compute.engine": "threads"},
            {"measures": {"loss": {"loss": "last 2"}}},
            {"seeds": [2, 1]},
            {"grid/federated.strategy": ["scaffold", "fedavg"]},
        ],
    )
    def test_another_value_of_what_does_not_count_changes_no_run(self, project: Path, changes: Mapping[str, Any]):
        assert keys() == keys(changes)

    @pytest.mark.parametrize("stage", ["partition", "federated"])
    def test_other_code_of_a_stage_makes_another_run(self, project: Path, stage: str, monkeypatch: pytest.MonkeyPatch):
        before = keys()

        def changed(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
            found = inputs(pipeline)
            code = found[stage]["code"]
            return found | {stage: found[stage] | {"code": code | {next(iter(code)): "0" * 64}}}

        monkeypatch.setattr(planning, "inputs", changed)
        assert not before & keys()

    def test_all_runs_have_different_keys(self, project: Path):
        runs = planned({"tune": TUNE}).runs({})
        assert len({run.key for run in runs}) == len(runs) == 4 * 3


def keys(changes: Mapping[str, Any] = {}) -> set[str]:
    return {run.key for run in planned(changes).runs({})}


def recorded(run: Run, accuracy: float | None, *, state: str = "done") -> Record:
    """A record of a run that came to an accuracy on validation data, and to the opposite of it on test data."""
    test = None if accuracy is None else 1 - accuracy
    row = {"round": 2, "test_accuracy": test, "validation_accuracy": accuracy, "test_loss": 1.0, "validation_loss": 1.0}
    return Record(run.key, "data", run.phase, run.labels, run.tuned, run.seed, state, rounds=(row,))


class TestTuning:
    """What tuning tries, and what it chooses."""

    GRID: ClassVar[dict[str, Any]] = {"tune": TUNE, "grid": {"federated.strategy": ["fedavg"]}}

    def chosen(self, accuracies: Mapping[tuple[float, int], float | None], **states: str) -> tuple[list[Any], float]:
        """The runs that tuning tries, and the rate that the runs that count have."""
        plan = planned(self.GRID)
        records: dict[str, Record] = {}
        tried: list[Any] = []
        while wave := [run for run in plan.runs(records) if run.key not in records and run.phase == "tune"]:
            for run in wave:
                lr = run.pipeline.federated.local.lr
                tried.append((lr, run.seed))
                state = states.get(f"lr{lr:g}".replace(".", "_"), "done")
                records[run.key] = recorded(run, accuracies[lr, run.seed], state=state)
        finals = [run for run in plan.runs(records) if run.phase == "final"]
        assert [run.seed for run in finals] == [1, 2]
        assert len(tried) + len(finals) == plan.total
        [rate] = {run.pipeline.federated.local.lr for run in finals}
        return tried, rate

    def test_only_the_best_go_on_after_the_first_seed_and_the_best_worst_seed_wins(self, project: Path):
        accuracies = {(0.01, 7): 0.5, (0.1, 7): 0.8, (1.0, 7): 0.9, (0.1, 8): 0.7, (1.0, 8): 0.6}
        tried, rate = self.chosen(accuracies)
        assert tried == [(0.01, 7), (0.1, 7), (1.0, 7), (0.1, 8), (1.0, 8)]
        assert rate == 0.1  # whose worst is 0.7; the other's is 0.6

    def test_the_worst_seed_may_be_the_first(self, project: Path):
        accuracies = {(0.01, 7): 0.4, (0.1, 7): 0.5, (1.0, 7): 0.3, (0.01, 8): 0.45, (0.1, 8): 0.9}
        assert self.chosen(accuracies)[1] == 0.1

    @pytest.mark.parametrize("state", ["diverged", "failed"])
    def test_what_diverged_or_failed_with_one_seed_loses_whatever_its_accuracy(self, project: Path, state: str):
        accuracies = {(0.01, 7): 0.2, (0.1, 7): 0.3, (1.0, 7): 0.9, (0.01, 8): 0.2, (0.1, 8): 0.1}
        assert self.chosen(accuracies, lr1=state)[1] == 0.01

    def test_of_equals_the_first_in_the_file_wins(self, project: Path):
        equal = dict.fromkeys(product([0.01, 0.1, 1.0], [7, 8]), 0.5)
        tried, rate = self.chosen(equal)
        assert ({lr for lr, seed in tried if seed == 8}, rate) == ({0.01, 0.1}, 0.01)

    def test_values_that_do_not_count_in_a_cell_are_tried_once(self, project: Path):
        grid = {"federated.strategy": ["fedavg", "fedprox"]}
        tune = {"grid": {"federated.fedprox.mu": [0.1, 1.0]}, "seeds": [7]}
        runs = planned({"grid": grid, "tune": tune}).runs({})
        tried = [run.labels["federated.strategy"] for run in runs if run.phase == "tune"]
        assert tried == ["fedprox", "fedprox"]
        assert [run.labels["federated.strategy"] for run in runs if run.phase == "final"] == ["fedavg", "fedavg"]

    def test_a_lower_loss_is_better(self, project: Path):
        plan = planned({**self.GRID, "measures": {"loss": {"loss": "last 1"}}})
        records = {}
        for place, run in enumerate(plan.runs({})):
            [row] = recorded(run, 0.5).rounds
            records[run.key] = replace(recorded(run, 0.5), rounds=({**row, "validation_loss": [3.0, 1.0, 2.0][place]},))
        again = [run for run in plan.runs(records) if run.key not in records]
        assert [run.pipeline.federated.local.lr for run in again] == [0.1, 1.0]


MISTAKES = [
    ({"qestion": "?"}, "qestion: unknown key; did you mean question?"),
    ({"seeds": []}, "seeds: "),
    ({"seeds": [1, 1]}, "names a seed twice"),
    ({"tables": [{"rowz": "partition"}]}, "tables.0.rowz: unknown key; did you mean rows?"),
    ({"measures": {"a": {"accurcy": "last 1"}}}, "measures.a.accurcy: unknown key; did you mean accuracy?"),
    ({"measures": {"a": {"accuracy": "lst 1"}}}, "must be `last N`"),
    ({"measures": {"a": {"accuracy": "last 1", "loss": "last 1"}}}, "measures.a.one measure is wanted"),
    ({"measures": {"a": {"accuracy": "last 3"}}}, "measures.a.accuracy: last 3: a run of 2 rounds has 2 evaluations"),
    ({"measures": {"a": {"accuracy": "round 3"}}}, "measures.a.accuracy: round 3: not evaluated"),
    ({"measures": {"a": {"clients": "mean"}}}, "partition.holdout: 0.2 would do"),
    ({"base/federated.local.lrr": 1}, "federated.local.lrr: unknown key; did you mean lr?"),
    ({"base/federated.rounds": 2.5}, "federated.rounds: 2.5 is not a whole number"),
    ({"base/federated.rounds.more": 2}, "federated.rounds.more: unknown parameter"),
    ({"base/federated.local": {"lr": 1.0}}, "base.federated.local: a block; name its parameters by dotted path, as in "
     "federated.local.lr"),
    ({"base/seed": 3}, "base: seed: `seeds` says"),
    ({"base/download.dataset": "cifar10"}, "base: download.dataset: a study runs on the data set in data/dataset"),
    ({"base/baseline.epochs": 3}, "base: baseline.epochs: a study trains no centralised baseline"),
    ({"grid/federated.strategy": "fedavg"}, 'grid.federated.strategy: "fedavg": not a list of values'),
    ({"grid/federated.strategy": ["fedavg", "fedavg"]}, "names a value twice"),
    ({"grid/federated.strategy": ["fedavg", "fedprx"]}, "fedprx"),
    ({"grid/partition": {}}, "grid.partition: has no settings"),
    ({"grid/partition/iid": "iid"}, 'grid.partition.iid: "iid": not parameters by dotted path'),
    ({"grid/partition.scheme": ["iid"]}, "partition.scheme is varied by grid.partition too"),
    ({"grid/phase": {"a": {"federated.rounds": 2}}}, "grid: phase: a column of the results has this name"),
    ({"grid/partition.clients": [1, 5]}, "federated.clients_per_round: 2 exceeds partition.clients = 1"),
    ({"grid/federated.fedprox.mu": [0.1, 0.2]}, "the same runs as iid, fedavg, 0.1"),
    ({"tune": TUNE | {"seeds": [2, 3]}}, "tune.seeds: 2: among seeds too"),
    ({"tune": TUNE | {"grid": {"federated.local.lr": 0.1}}}, "tune.grid.federated.local.lr: 0.1"),
    ({"tune": TUNE | {"by": "acuracy"}}, "tune.by: acuracy: unknown; did you mean accuracy?"),
    ({"tune": TUNE, "measures": {"s": {"seconds": "run"}}}, "tune.by: s: seconds is not measured on validation data"),
    ({"tables": [{"rows": "federated.stategy"}]}, "tables.0.rows: federated.stategy: unknown; did you mean"),
    ({"tables": [{"rows": "partition", "columns": "partition"}]}, "tables.0.columns: partition: these are the rows"),
    ({"tables": [{"rows": "partition", "baseline": "fedavg"}]}, "tables.0.baseline: fedavg: unknown; known: iid, few"),
    ({"tables": [{"rows": "partition", "measure": "loss"}]}, "tables.0.measure: loss: unknown; known: accuracy"),
    ({"figures": [{"lines": "partition", "panels": "partition"}]}, "figures.0.panels: partition: these are the lines"),
    ({"figures": [{"lines": "partition", "over": "weeks"}]}, "figures.0.over"),
]  # fmt: skip


class TestCheck:
    """A study is checked as a whole before the first run."""

    @pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said[:50] for _, said in MISTAKES])
    def test_a_mistake_is_a_line_that_says_where_and_what_would_work(
        self, project: Path, changes: Mapping[str, Any], said: str
    ):
        path = write(changes)
        with pytest.raises(UserError) as raised:
            check_study(path)
        lines = str(raised.value).splitlines()
        assert any(said in line for line in lines), lines
        assert all(line.startswith("studies/small.yaml: ") for line in lines)

    def test_a_mistake_of_some_cells_names_the_first_of_them(self, project: Path):
        path = write({"grid/partition/iid": {"partition.scheme": "iid", "partition.clients": 1}})
        with pytest.raises(UserError) as raised:
            check_study(path)
        told = "iid, fedavg and 1 more cells: federated.clients_per_round: 2 exceeds partition.clients = 1"
        assert str(raised.value) == f"studies/small.yaml: {told}"

    def test_a_mistake_in_params_yaml_names_that_file(self, project: Path):
        Path("params.yaml").write_text("seed: x\n")
        with pytest.raises(UserError, match=r"^params.yaml: seed: \"x\" is not a whole number$"):
            check_study(write())

    def test_it_says_how_many_runs_there_are_and_about_how_long_they_take(self, project: Path):
        first, second = check_study(write())
        assert first == "studies/small.yaml: 8 runs: 4 cells with 2 seeds; 0 recorded, 8 missing"
        assert second.startswith("about ")
        assert second.endswith("an estimate, by a short trial")

    def test_runs_that_tune_are_counted(self, validated: Path):
        """3 rates with the first seed, then 2 of them with the other one, in each of 4 cells."""
        assert "28 runs: 4 cells with 2 seeds and 20 to tune" in check_study(write({"tune": TUNE}))[0]

    def test_it_needs_no_data(self, project: Path):
        (project / "data/dataset/dataset.json").unlink()
        lines = check_study(write())
        assert "8 runs" in lines[0]
        assert "`dvc repro download`" in lines[1]
        with pytest.raises(UserError, match="no data set is there; `dvc repro download` gets it"):
            run_study(write())

    @pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
    def test_the_studies_of_the_project_are_valid(self, path: Path):
        plan = Plan(read_study(path), path, ROOT / "params.yaml")
        assert plan.total >= len(plan.cells) * len(plan.study.seeds)


@pytest.mark.slow
class TestRun:
    """What is missing is run, many runs at once."""

    def test_a_run_has_the_bits_that_its_parameters_have_anywhere(self, project: Path):
        done = run_study(write({"base/partition.holdout": 0.2, "seeds": [3]}))
        assert len(done.records) == 4
        for record in done.records:
            expected = fedpipe.run(
                strategy=record.labels["federated.strategy"], seed=record.seed, model="logistic", clients=5, rounds=2,
                scheme="iid" if record.labels["partition"] == "iid" else "shards", clients_per_round=2, holdout=0.2,
                local={"epochs": 1, "batch_size": 20, "optimizer": "sgd", "lr": 0.05}, quiet=True,
            )  # fmt: skip
            for row, known in zip(record.rounds, expected.round_rows(), strict=True):
                assert row == {name: known[name] for name in row}
                assert {"round", "test_accuracy", "test_loss", "train_loss", "bytes_up"} <= row.keys()
            assert 0 <= record.clients["clients_worst_tenth"] <= record.clients["clients_mean"] <= 1  # pyright: ignore

    def test_the_results_are_the_same_whatever_the_workers_and_the_engine(self, finished: Path):
        expected = contents()  # of as many forked processes as there are cores
        for workers, engine in ((1, "threads"), (3, "threads"), (3, "processes")):
            path = write({"base/compute.engine": engine}, f"studies/{engine}{workers}.yaml")
            run_study(path, workers=workers)
            assert contents(path.with_suffix("").as_posix()) == expected

    def test_the_results_are_the_same_on_ray(self, finished: Path):
        expected = contents()
        run_study(write({"base/compute.engine": "ray"}, "studies/ray.yaml"), workers=2)
        assert contents("studies/ray") == expected

    def test_what_is_recorded_is_not_run_again(self, finished: Path):
        before = Path("studies/small/runs.csv").read_text()
        run_study(write())
        assert Path("studies/small/runs.csv").read_text() == before
        run_study(write({"seeds": [1, 2, 3]}))
        after = Path("studies/small/runs.csv").read_text()
        assert after.startswith(before)
        assert after.count("\n") == before.count("\n") + 4

    def test_other_data_is_another_run(self, finished: Path, sample: Dataset):
        before = contents()["rounds.csv"]
        datasets.save(replace(sample, train=sample.train.at(torch.arange(1, 4000, 6))), finished / "data/dataset")
        assert "0 recorded, 4 missing" in check_study(write({"seeds": [1]}))[0]
        run_study(write({"seeds": [1]}))
        assert contents()["rounds.csv"] != before
        assert len(pd.read_csv("studies/small/runs.csv")) == 4  # the others are gone, for nothing is missing

    def test_only_some_cells_are_run_and_records_of_others_stay(self, project: Path):
        path = write()
        run_study(path, only=["iid, fedavg"])
        runs = pd.read_csv("studies/small/runs.csv")
        assert (runs["federated.strategy"] + runs["partition"]).tolist() == ["fedavgiid"] * 2
        run_study(path, only=["few labels, scaffold"])
        assert len(pd.read_csv("studies/small/runs.csv")) == 4
        with pytest.raises(UserError, match=r"^iid, scafold: no cell of the study; did you mean \"iid, scaffold\"\?$"):
            run_study(path, only=["iid, scafold"])

    def test_no_run_begins_after_the_time(self, project: Path, capsys: pytest.CaptureFixture[str]):
        path = write()
        with pytest.raises(UserError, match="no run that counts is recorded"):
            run_study(path, hours=0)
        assert "8 runs are left for another time" in capsys.readouterr().out

    def test_two_processes_do_not_run_one_study(self, project: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(commands, "PATIENCE", 0.0)
        path = write()
        with commands._alone(path), pytest.raises(UserError, match=r"^studies/small.yaml: another process runs it"):
            run_study(path)

    def test_nothing_is_left_of_the_partitions_that_runs_share(self, finished: Path):
        assert not [file for file in Path(".fedpipe").iterdir() if file.is_dir()]
        assert not list(Path("studies").rglob(".*"))

    def test_a_run_that_diverges_is_recorded_as_such_with_its_rounds(self, project: Path):
        done = run_study(write({"grid": {"federated.local.lr": [0.05, 500.0]}, "seeds": [1]}))
        good, bad = done.records
        assert (good.state, bad.state) == ("done", "diverged")
        assert len(bad.rounds) == 1  # where it stopped
        assert done.results["state"].tolist() == ["done", "diverged"]

    def test_a_run_that_fails_is_recorded_with_its_reason_stops_no_other_and_is_tried_again(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ):
        path = write({"grid": {"federated.local.lr": [1e30, 0.05]}, "base/federated.on_bad_update": "stop"})
        done = run_study(path)
        assert [record.state for record in done.records] == ["failed", "done"] * 2
        assert "update cannot be used" in done.records[0].reason
        assert "failed: round 1: client" in capsys.readouterr().out
        assert done.results["value"].isna().tolist() == [True, False] * 2
        assert "2 of those recorded failed, and are tried again" in check_study(path)


class TestValidation:
    """What tunes is chosen on validation data, and the test set is used once."""

    CHANGES: ClassVar[dict[str, Any]] = {"tune": TUNE, "grid": {"federated.strategy": ["fedavg", "scaffold"]}}

    def test_it_is_refused_to_tune_without_validation_data(self, project: Path):
        for attempt in (check_study, run_study):
            with pytest.raises(UserError) as raised:
                attempt(write(self.CHANGES))
            [line] = str(raised.value).splitlines()
            assert line.startswith("studies/small.yaml: tune: the data set has no validation data to choose by")
            assert "-S download.validation=0.1" in line

    def test_the_rate_that_counts_is_that_whose_worst_accuracy_on_validation_data_is_best(self, validated: Path):
        done = run_study(write({**self.CHANGES, "seeds": [1]}))
        runs, rounds = read("runs.csv"), read("rounds.csv")
        accuracy = {row["key"]: float(row["validation_accuracy"]) for row in rounds}  # the last one of each run stays
        tried: dict[tuple[str, str], list[float]] = {}
        for row in runs:
            if row["phase"] == "tune":
                tried.setdefault((row["federated.strategy"], row["federated.local.lr"]), []).append(
                    accuracy[row["key"]]
                )
        assert sum(map(len, tried.values())) == 2 * (3 + 2)
        for strategy in ("fedavg", "scaffold"):
            worst = {lr: min(of) for (name, lr), of in tried.items() if name == strategy and len(of) == 2}
            [chosen] = {
                row["federated.local.lr"]
                for row in runs
                if row["phase"] == "final" and row["federated.strategy"] == strategy
            }
            assert worst[chosen] == max(worst.values())
        assert set(done.results["seed"]) == {1}
        assert "federated.local.lr, as tuning on validation data chose it" in done.text

    def test_the_accuracy_that_counts_is_on_the_test_set_and_rounds_go_by_validation_data(self, validated: Path):
        measures = {"accuracy": {"accuracy": "last 1"}, "rounds": {"rounds_to": 0.2}}
        done = run_study(write({"seeds": [1], "measures": measures}))
        rounds = read("rounds.csv")
        results = done.results
        shown = results["value"][results["measure"] == "accuracy"].tolist()
        assert [float(row["test_accuracy"]) for row in rounds if row["test_accuracy"]] == shown
        assert all(row["validation_accuracy"] for row in rounds)
        assert "rounds until the validation accuracy is 0.2" in done.text

    def test_a_mean_over_rounds_on_the_test_set_is_refused(self, validated: Path):
        with pytest.raises(
            UserError, match=r"measures.accuracy.accuracy: last 2: with validation data, .* last 1 would"
        ):
            run_study(write({"measures": {"accuracy": {"accuracy": "last 2"}}}))
        check_study(write({"measures": {"accuracy": {"accuracy": "round 2"}}}))  # the last one


class TestRecords:
    """Every finished run is kept, in files that anybody can read."""

    def test_show_needs_neither_data_nor_a_run(self, finished: Path):
        path = write()
        expected = contents()
        (finished / "data/dataset/dataset.json").unlink()
        for file in Path("studies/small").iterdir():
            if file.name not in ("runs.csv", "rounds.csv"):
                file.unlink()
        show_study(path)
        assert contents() == expected

    def test_show_follows_the_file_without_a_run(self, finished: Path):
        shown = show_study(write({"measures": {"loss": {"loss": "round 1"}}})).results
        assert set(shown["measure"]) == {"loss"}
        rounds = pd.read_csv("studies/small/rounds.csv", dtype=str)
        assert shown["value"].tolist() == [*map(float, rounds["test_loss"])][::2]

    def test_show_says_so_if_what_is_recorded_was_made_otherwise(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ):
        before = contents()
        show_study(write({"base/federated.rounds": 3}))
        assert "made with other parameters, data or code" in capsys.readouterr().out
        assert contents() == before
        assert "To make all 8 anew takes about" in Path("studies/small/report.html").read_text()

    def test_what_is_recorded_is_found_also_where_the_study_could_not_run(self, finished: Path):
        path = write()
        _, records = results_of(path)
        path = write({"base/partition.clients": 1_000_000})  # of 4,000 examples
        with pytest.raises(UserError, match="exceeds"):
            show_study(path)
        assert results_of(path) == (read_study(path), records)

    def test_a_run_that_was_written_in_part_is_run_again(self, finished: Path):
        path = write()
        expected = contents()
        for name, kept in (("runs.csv", -30), ("rounds.csv", -100)):
            file = Path("studies/small") / name
            file.write_text(file.read_text()[:kept])
        assert "7 recorded, 1 missing" in check_study(path)[0]
        run_study(path)
        assert contents() == expected

    def test_a_damaged_file_is_a_line(self, finished: Path):
        Path("studies/small/runs.csv").write_text("key,phase\nx,y\n")
        with pytest.raises(UserError, match=r"studies/small/runs.csv: damaged .*; delete"):
            check_study(write({"seeds": [1]}))

    @given(
        st.lists(
            st.fixed_dictionaries(
                {
                    "round": st.integers(1, 10**6),
                    "test_accuracy": st.floats(0, 1),
                    "test_loss": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
                }
            ),
            max_size=3,
        ),
        st.floats(0, 1e6),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    )
    def test_what_is_read_is_what_was_written_to_the_last_bit(
        self, tmp_path_factory: pytest.TempPathFactory, rounds: list[dict[str, Any]], seconds: float, reason: str
    ):
        study = Study.model_validate(STUDY | {"tune": TUNE})
        labels = {"partition": "a, b", "federated.strategy": 'c "d"'}
        record = Record(
            "k", "data", "final", labels, {"federated.local.lr": "0.1"}, 3, "failed", reason, seconds,
            {"clients_mean": 0.1, "clients_worst_tenth": None, "clients_spread": 1 / 3}, tuple(rounds),
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("store")
        Store(folder, study).write([record])
        assert Store(folder, study).read() == {"k": record}
        store = Store(folder / "appended", study)
        store.write([])
        store.append(record, [record])
        assert store.read() == {"k": record}


@pytest.mark.slow
def test_a_run_has_the_bits_of_the_pipelines_stages(project: Path):
    """Those of `dvc exp run` with its parameters, stage after stage, with the default engine and workers."""
    done = run_study(write({"grid": {"federated.strategy": ["scaffold"]}, "seeds": [5]}))
    conftest.set_params(project, {**SMALL, "federated.strategy": "scaffold", "seed": 5})
    for stage in ("partition", "federated"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", f"stages.{stage}"], check=True, env=environment, capture_output=True)
    rounds = pd.read_csv("reports/federated/rounds.csv", dtype=str)
    [record] = done.records
    for name in record.rounds[0]:
        known = [None if pd.isna(text) else float(text) for text in rounds[name]]
        assert known == [row[name] for row in record.rounds], name


@pytest.mark.slow
def test_the_default_pipeline_runs_no_study_and_the_stage_of_the_documentation_is_one(
    reproduced: Reproduced, tmp_path: Path
):
    folder = reproduced.copy(tmp_path / "project")
    page = (ROOT / "docs/how-to/studies.md").read_text()
    [stage] = re.findall(r'```yaml title="studies/dvc.yaml"\n(.*?)```', page, re.DOTALL)
    (folder / "studies/dvc.yaml").write_text(stage)
    assert conftest.ran(conftest.run("dvc repro --dry --force", folder)) == [
        "check", "download", "partition", "federated", "baseline", "local", "compare", "report",
    ]  # fmt: skip
    assert "fedpipe study run studies/example.yaml" in conftest.run("dvc repro --dry studies/dvc.yaml", folder)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["all", "alone"])
def test_a_study_that_was_killed_goes_on_and_comes_to_the_same(project: Path, whom: str):
    """All its processes, or the one alone that supervises them, killed in the middle, again and again."""
    changes = {"seeds": list(range(1, 7)), "base/federated.rounds": 20}
    run_study(write(changes, "studies/whole.yaml"))
    path, killed = write(changes), 0
    command = [sys.executable, "-m", "fedpipe", "study", "run", str(path), "--workers", "2"]
    while True:
        done = count("studies/small/runs.csv")
        process = subprocess.Popen(
            command, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and (killed == 3 or count("studies/small/runs.csv") < done + 3):
            time.sleep(0.01)
        if process.poll() is not None:
            break
        (os.killpg if whom == "all" else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        assert count("studies/small/runs.csv") >= done + 3
    assert process.returncode == 0
    assert killed == 3
    assert contents() == contents("studies/whole")


def count(path: str) -> int:
    return Path(path).read_text().count("\n") if Path(path).exists() else 0
