"""`fedpipe summary` says of DVC's experiments what is so, and what it leaves out."""

import copy
import json
import re
from collections.abc import Mapping
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpipe.studies.summary import Experiments, Run, experiments, overview
from fedpipe.system.errors import UserError
from tests.conftest import ROOT, Reproduced, run

# What `dvc exp show --json --all-commits` of DVC 3.67 printed, without hashes of files: two epochs of a 2NN on the
# sample; fedavg and scaffold with seeds 1, 2 and 3; scaffold with seed 4 and another rate; one that failed; one queued;
# the branch `main` with seed 42, of which the workspace is no different, the branch `other` with seed 6, and the commit
# before `main`, with other parameters.
RECORDED = ROOT / "tests/recorded/exp_show.json"
BY_STRATEGY = {"federated.strategy": ["fedavg", "scaffold"]}


@pytest.fixture
def shown() -> list[dict[str, Any]]:
    return json.loads(RECORDED.read_text())


def last_commit(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `dvc exp show` prints without options: the workspace, the last commit, and its experiments."""
    return [commit for commit in shown if commit["name"] in (None, "main")][:2]


def read(shown: list[dict[str, Any]], *, up_to_date: bool = True) -> Experiments:
    return experiments(shown, lambda: up_to_date)


def table(found: Experiments, **options: Any) -> pd.DataFrame:
    return pd.read_csv(StringIO(overview(found, **options).table.as_csv()))


def value(entry: Mapping[str, Any], metric: str = "accuracy") -> float:
    return entry["data"]["metrics"]["reports/federated/metrics.json"]["data"][metric]


def parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    return entry["data"]["params"]["params.yaml"]["data"]


def a_run(name: str, seed: int, accuracy: float, *, when: Any = "2026-01-01", **more: Any) -> Run:
    parameters = {"seed": seed, "federated.strategy": "fedavg", "partition.scheme": "iid", "sample": False} | more
    return Run(name, parameters, frozenset(), {"accuracy": accuracy}, when, experiment=True)


# Of what DVC showed


def test_means_are_those_of_the_experiments_that_ended_by_strategy(shown):
    found = table(read(last_commit(shown)), where={"federated.local.lr": "0.001"})
    ended = [one["revs"][0] for one in shown[2]["experiments"] if (one["executor"] or {}).get("state") != "failed"]
    ended = [one for one in ended if one["data"]["metrics"]]
    for row in found.to_dict("records"):
        values = [
            value(one)
            for one in [*ended, shown[2]]
            if parameters(one)["federated"]["strategy"] == row["federated.strategy"]
            and parameters(one)["federated"]["local"]["lr"] == 0.001
        ]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
        assert row["runs"] == len(values)
    assert found["runs"].tolist() == [5, 3]  # of fedavg also main, and seed 6, which is not yet committed there


def test_queued_and_failed_experiments_are_mentioned_and_not_counted(shown):
    """The failed one comes with the metrics of the commit that it began from."""
    found = read(last_commit(shown))
    assert found.others == {"queued": 1, "failed": 1}
    assert "Not counted: 1 queued, 1 failed." in overview(found).remarks
    assert not {"coxal-lift", "dotal-haet"} & {run.name for run in found.runs}


def test_the_workspace_counts_once_with_the_commit_that_it_equals(shown):
    commits = [run for run in read(last_commit(shown)).runs if not run.experiment]
    assert [run.name for run in commits] == ["main"]


def test_an_experiment_that_is_also_a_branch_counts_once(shown):
    names = {run.name for run in read(shown).runs}
    assert {"other", "doped-cant"} <= names  # the experiment, and the commit of its results
    assert table(read(shown), commits=True, where={"federated.strategy": "fedavg", "model.name": "2nn"})[
        "runs"
    ].tolist() == [5]


def test_a_workspace_with_results_of_its_own_counts_if_they_are_of_its_parameters(shown):
    before = last_commit(shown)
    changed = copy.deepcopy(before)
    parameters(changed[0])["seed"] = 43
    assert "workspace" in {run.name for run in read(changed).runs}
    stale = read(changed, up_to_date=False)
    assert "workspace" not in {run.name for run in stale.runs}
    assert any("whose results are not those of its parameters" in line for line in overview(stale).remarks)


def test_groups_are_told_apart_by_what_differs_and_no_more(shown):
    found = overview(read(last_commit(shown))).table
    assert found.rows == (
        "federated.strategy",
        "federated.local.lr",
    )  # not scaffold.lr, which follows from the strategy
    assert [entry.row for entry in found.entries] == [("fedavg", "0.001"), ("scaffold", "0.001"), ("scaffold", "0.01")]


def test_what_no_result_depends_on_tells_no_groups_apart(shown):
    changed = last_commit(shown)
    for position, one in enumerate(changed[1]["experiments"]):
        parameters(one["revs"][0])["compute"]["workers"] = position + 1
        parameters(one["revs"][0])["federated"]["fedprox"]["mu"] = position
        parameters(one["revs"][0])["baseline"]["lr"] = position / 10 + 0.01
    assert overview(read(changed)).table.rows == ("federated.strategy", "federated.local.lr")
    rows = overview(read(changed), measures=["gap"], where={"federated.strategy": "scaffold"}).table.rows
    assert "baseline.lr" in rows  # on which a comparison depends


def test_a_group_of_different_things_is_called_that(shown):
    said = overview(read(last_commit(shown)), by=["federated.strategy"]).remarks
    assert said[-1] == (
        "scaffold: a mean over different things, since its runs also differ in federated.local.lr: 0.001, 0.01."
    )


def test_differences_are_seed_by_seed_from_the_baseline(shown):
    found = table(read(last_commit(shown)), baseline="fedavg", where={"federated.local.lr": "0.001"})
    by_seed: dict[str, dict[int, float]] = {"fedavg": {}, "scaffold": {}}
    for one in shown[2]["experiments"]:
        entry = one["revs"][0]
        if parameters(entry)["seed"] in (1, 2, 3):
            by_seed[parameters(entry)["federated"]["strategy"]][parameters(entry)["seed"]] = value(entry)
    differences = [by_seed["scaffold"][seed] - by_seed["fedavg"][seed] for seed in (1, 2, 3)]
    row = found.set_index("federated.strategy").loc["scaffold"]
    assert row["pairs"] == 3
    assert row["difference"] == pytest.approx(np.mean(differences))


def test_commits_that_no_experiment_is_like_count_only_where_they_are_asked_for(shown):
    found = overview(read(shown))
    assert any(line.startswith("Not counted: 1fd0f24, ") for line in found.remarks)
    assert "MNIST" not in overview(read(shown)).table.as_csv()
    assert "reference-cnn" in overview(read(shown), commits=True).table.as_csv()


def test_commits_are_all_there_is_without_experiments(shown):
    alone = [commit | {"experiments": None} for commit in last_commit(shown)]
    found = overview(read(alone)).table
    assert [(entry.row, entry.runs) for entry in found.entries] == [(("all experiments",), 1)]


def test_parameters_of_another_version_of_fedpipe_are_taken_as_they_are(shown):
    changed = last_commit(shown)
    for entry in [*changed, *(one["revs"][0] for one in changed[1]["experiments"])]:
        parameters(entry)["federated"]["of_another_version"] = 1
    assert overview(read(changed)).table.rows == ("federated.strategy", "federated.local.lr")


def test_a_commit_that_cannot_be_read_is_counted_as_such(shown):
    changed = [
        *last_commit(shown),
        {"rev": "abc", "name": None, "data": None, "error": {"msg": "x"}, "experiments": None},
    ]
    assert "Not counted: 1 queued, 1 failed, 1 that cannot be read." in overview(read(changed)).remarks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["federated.stategy"]}, r"^federated\.stategy: no parameter .* did you mean federated\.strategy\? "),
        ({"by": ["strategy"]}, r"^strategy: no parameter .* did you mean federated\.strategy\? "),
        ({"measures": ["acuracy"]}, r"^acuracy: no metric .* did you mean accuracy\? "),
        ({"measures": ["sample"]}, r"^sample: no metric "),
        ({"baseline": "fedavgm"}, r"^--baseline fedavgm: no row has this; of .* there is: fedavg, 0\.001; "),
        ({"baseline": "scaffold"}, r"^--baseline scaffold: several rows have this; .* there is: scaffold, 0\.001; "),
        ({"where": {"seed": "99"}}, r"^seed=99: no experiment has this; they have 1, 2, 3, 4, 6, 42$"),
    ],
)
def test_what_is_not_there_is_answered_with_what_would_work(shown, options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        overview(read(last_commit(shown)), **options)


def test_without_an_experiment_it_says_how_to_make_one(shown):
    with pytest.raises(UserError, match=r"^no experiments yet; `dvc exp run -S seed=1` makes one$"):
        overview(read([]))
    queued = [commit | {"data": commit["data"] | {"metrics": {}}} for commit in last_commit(shown)]
    for one in queued[1]["experiments"]:
        one["executor"] = {"state": "queued"}
    with pytest.raises(UserError, match=r"^no experiments yet; .* makes one\. Not counted: 10 queued$"):
        overview(read(queued))


# Of runs made up for the purpose


def test_a_full_grid_of_two_parameters_has_rows_and_columns():
    grid = [
        a_run(f"{strategy}-{scheme}-{seed}", seed, 0.9, **{"federated.strategy": strategy, "partition.scheme": scheme})
        for strategy in ("fedavg", "scaffold") for scheme in ("iid", "shards") for seed in (1, 2, 3)
    ]  # fmt: skip
    full, missing_one = overview(Experiments(tuple(grid))).table, overview(Experiments(tuple(grid[3:]))).table
    assert (full.rows, full.columns) == (("federated.strategy",), ("partition.scheme",))
    assert (missing_one.rows, missing_one.columns) == (("federated.strategy", "partition.scheme"), ())


def test_rows_are_sorted_by_the_size_of_numbers():
    runs = [a_run(str(rate), 1, 0.9, **{"federated.local.lr": rate}) for rate in (0.1, 10.0, 1e-05, 2.0)]
    assert [entry.row for entry in overview(Experiments(tuple(runs))).table.entries] == [
        ("1e-05",), ("0.1",), ("2",), ("10",),
    ]  # fmt: skip


def test_of_two_runs_with_the_same_parameters_the_newest_counts():
    older, newer = a_run("older", 1, 0.5), a_run("newer", 1, 0.9, when="2026-02-01")
    found = overview(Experiments((older, newer)))
    assert found.table.entries[0].summary.mean == 0.9
    assert found.remarks[0].startswith("Not counted: older, since a newer run has the same parameters and seed, ")
    equal = overview(Experiments((older, a_run("again", 1, 0.5))))
    assert equal.table.entries[0].runs == 1
    assert equal.remarks == ()


def test_runs_on_different_data_sets_are_never_averaged_unnoticed():
    runs = (a_run("a", 1, 0.99), a_run("b", 2, 0.91, sample=True))
    assert overview(Experiments(runs)).table.rows == ("sample",)
    assert "sample: false, true" in overview(Experiments(runs), by=["partition.scheme"]).remarks[0]


def test_runs_of_one_group_with_one_seed_are_refused():
    runs = tuple(a_run(str(rate), 1, 0.9, **{"federated.local.lr": rate}) for rate in (0.1, 0.2))
    with pytest.raises(
        UserError, match=r"try --by partition\.scheme,federated\.local\.lr, or --where federated\.local"
    ):
        overview(Experiments(runs), by=["partition.scheme"])


@pytest.mark.parametrize(
    ("metrics", "measure", "diverged"),
    [
        ({"centralised": 0.9}, "accuracy", 1),
        ({"accuracy": 0.9}, "accuracy", 0),
        ({"accuracy": 0.9}, "centralised", 1),
        ({"accuracy": 0.9}, "gap", 1),
        ({"accuracy": 0.9, "centralised": 0.9}, "validation_accuracy", 0),  # without validation data
        ({"accuracy": 0.9}, "to_target", 0),  # it never reached the target
        ({}, "to_target", 1),
        ({}, "local", 0),
    ],
)
def test_a_run_diverged_if_the_training_did_that_the_measure_is_of(
    metrics: dict[str, float], measure: str, diverged: int
):
    """DVC shows no metric without a value."""
    run = Run("a", {"seed": 1}, frozenset(), {"sample": False, **metrics}, "", experiment=True)
    [entry] = overview(Experiments((run,)), measures=[measure]).table.entries
    assert entry.summary.diverged == diverged


def test_a_run_of_a_version_that_has_other_metrics_did_not_diverge():
    run = Run("a", {"seed": 1}, frozenset(), {"federated.accuracy": 0.9}, "", experiment=True)
    [entry] = overview(Experiments((run,)), measures=["accuracy"]).table.entries
    assert (entry.summary.diverged, entry.summary.missing) == (0, 1)


@pytest.mark.parametrize(("patience", "last"), [(None, 50.0), (3, None)])
def test_a_run_that_patience_may_have_ended_is_not_taken_to_have_gone_on_to_the_last_round(
    patience: int | None, last: float | None
):
    run = a_run("a", 1, 0.9, **{"federated.rounds": 50, "federated.patience": patience})
    [entry] = overview(Experiments((run,)), measures=["to_target"]).table.entries
    assert entry.time
    assert (entry.time.reached, entry.time.runs, entry.time.last) == (0, 1, last)


# Of a real queue


PAGE = (ROOT / "docs/how-to/seeds.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_queue_of_the_page_is_summarised_in_the_terminal(reproduced: Reproduced, tmp_path: Path):
    project = reproduced.copy(tmp_path / "project")
    for line in "".join(blocks("bash")).replace("\\\n", " ").splitlines():
        run(line.replace("seed=1,2,3,4,5", "seed=1,2,3"), project)  # each is a run of a minute
    run("dvc exp run --queue -S seed=6", project)
    output = run("fedpipe summary --baseline fedavg", project)
    assert max(map(len, output.splitlines())) <= 100
    assert "| fedavgm " in output
    assert "over 3 common seeds" in output
    assert "Not counted: 1 queued." in output
    table = pd.read_csv(StringIO(run("fedpipe summary --format csv --baseline fedavg 2>/dev/null", project)))
    table = table.set_index("federated.strategy")
    assert table["runs"].to_dict() == {"fedavg": 4, "fedavgm": 3}  # with seed 42, which is committed
    shown = json.loads(run("dvc exp show --json 2>/dev/null", project))
    ended = [one["revs"][0] for one in shown[1]["experiments"] if one["revs"][0]["data"]["metrics"]]
    there = {(parameters(one)["federated"]["strategy"], parameters(one)["seed"]) for one in ended}
    assert there == set(product(["fedavg", "fedavgm"], [1, 2, 3]))  # each in a copy of the project of its own
    values = [value(one) for one in ended if parameters(one)["federated"]["strategy"] == "fedavgm"]
    assert table.loc["fedavgm", "mean"] == pytest.approx(np.mean(values))
    assert r"\begin{tabular}" in run("fedpipe summary --format latex", project)
    assert run("git status --porcelain", project) == ""
    assert "did you mean federated.strategy?" in run("fedpipe summary --by strategy", project, fails=True)


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path: Path):
    (tmp_path / "page.py").write_text("\n".join(blocks("python")))
    run(f"PYTHONPATH={ROOT} python page.py", tmp_path)


@pytest.mark.slow
def test_outside_of_a_project_it_says_so(tmp_path: Path):
    assert "you are not inside of a DVC repository" in run("fedpipe summary", tmp_path, fails=True)
