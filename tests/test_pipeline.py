"""Whole pipelines, as a user runs them, in a git repository of their own, on the offline sample."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SAMPLE, Reproduced, hashes, ran, restored, run, set_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after `dvc repro`, in which the tests follow each other: each leaves it as it was."""
    return reproduced.copy(tmp_path_factory.mktemp("project") / "project")


def test_the_first_repro_runs_every_stage_and_says_that_the_sample_is_not_mnist(reproduced: Reproduced):
    assert ran(reproduced.output) == [
        "check", "download", "partition", "federated", "baseline", "local", "compare", "report",
    ]  # fmt: skip
    assert "THIS IS NOT MNIST" in reproduced.output


def test_every_report_names_the_sample(project: Path):
    tables = sorted((project / "reports").rglob("*.csv"))
    assert len(tables) == 15
    for table in tables:
        assert set(pd.read_csv(table)["dataset"]) == {SAMPLE}, table
    assert json.loads((project / "reports/federated/metrics.json").read_text())["sample"] is True
    figures = json.loads((project / "reports/comparison.json").read_text())
    assert {figures[method]["dataset"] for method in ("federated", "centralised", "local")} == {SAMPLE}
    assert SAMPLE in (project / "reports/comparison.md").read_text()


def test_the_tables_have_the_columns_that_are_documented(project: Path):
    def columns(table: str) -> list[str]:
        return list(pd.read_csv(project / "reports" / table))

    assert columns("federated/rounds.csv") == [
        "dataset", "round", "cohort", "dropped", "lost", "refused", "skipped", "examples", "train_loss",
        "validation_loss", "validation_accuracy", "validation_macro_f1", "test_loss", "test_accuracy", "test_macro_f1",
        "update_norm", "aggregate_norm", "update_cosine", "bytes_down", "bytes_up",
        "bytes_total", "examples_processed",
    ]  # fmt: skip
    assert columns("federated/clients.csv") == [
        "dataset", "round", "client", "examples", "epochs", "train_loss", "loss", "accuracy", "held_out",
        "holdout_accuracy_before", "holdout_accuracy", "update_norm",
    ]  # fmt: skip
    assert columns("federated/holdout.csv") == ["dataset", "client", "held_out", "loss", "accuracy"]
    assert columns("local/clients.csv") == [
        "dataset", "client", "examples", "epochs", "examples_processed", "train_loss", "test_loss", "test_accuracy",
        "diverged", "own_labels_accuracy", "held_out", "holdout_loss", "holdout_accuracy",
    ]  # fmt: skip
    assert columns("clients.csv") == [
        "dataset", "client", "examples", "held_out", "federated_test_accuracy", "local_test_accuracy",
        "federated_own_labels_accuracy", "local_own_labels_accuracy", "federated_holdout_accuracy",
        "local_holdout_accuracy", "measure", "federated", "local", "gain",
    ]  # fmt: skip
    assert columns("gains.csv") == [
        "dataset", "measure", "method", "clients", "mean", "median", "worst_tenth", "std", "gini", "clients_gaining",
        "mean_gain",
    ]  # fmt: skip
    assert columns("baseline/epochs.csv") == [
        "dataset", "epoch", "train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1", "test_loss",
        "test_accuracy", "test_macro_f1", "examples_processed",
    ]  # fmt: skip


def test_timings_are_in_files_that_nothing_follows_from(project: Path):
    """Neither git nor DVC knows of them, and no other table says how long anything took."""
    names = set(hashes(project)) | set(run("git ls-files", project).splitlines())
    for stage, table in (("federated", "rounds"), ("baseline", "epochs")):
        timings = pd.read_csv(project / f"reports/{stage}/timings.csv")
        assert len(timings) == len(pd.read_csv(project / f"reports/{stage}/{table}.csv"))
        assert (timings[["training_seconds", "evaluation_seconds"]].to_numpy() > 0).all()
        assert f"reports/{stage}/timings.csv" not in names
    for table in {path for path in (project / "reports").rglob("*.csv") if path.stem != "timings"}:
        assert "seconds" not in table.read_text()
    assert run("git status --porcelain", project) == ""


def test_a_second_repro_has_nothing_to_do(project: Path):
    output = run("dvc repro", project)
    assert ran(output) == restored(output) == []
    assert "Data and pipelines are up to date." in output


def test_an_edited_figure_is_drawn_again(project: Path):
    names = ["learning_curves", "confusion_counts", "class_accuracy", "label_counts", "clients"]
    templates = [f".dvc/plots/{name}.json" for name in names]
    texts = {template: (project / template).read_text() for template in templates}
    for template, text in texts.items():
        (project / template).write_text(text.replace('"fontSize": 15', '"fontSize": 16'))
    status = json.loads(run("dvc status --json", project))
    for template, text in texts.items():
        (project / template).write_text(text)
    assert status == {
        stage: [{"changed deps": dict.fromkeys(templates, "modified")}] for stage in ("compare", "report")
    }


def test_a_forced_repro_makes_the_same_bits_whatever_the_workers(project: Path):
    before = hashes(project)  # of as many workers as there are cores
    set_params(project, {"compute.workers": 3})
    assert ran(run("dvc repro -f", project)) == [
        "check", "download", "partition", "federated", "baseline", "local", "compare", "report",
    ]  # fmt: skip
    assert hashes(project) == before
    set_params(project, {"compute.workers": 1})
    assert ran(run("dvc repro -f --single-item federated local", project)) == ["federated", "local"]  # which have them
    assert hashes(project) == before
    set_params(project, {"compute.workers": "auto"})
    run("dvc repro", project)
    assert run("git status --porcelain", project) == ""


def test_an_experiment_reruns_what_its_parameter_reaches_and_going_back_restores(project: Path):
    output = run("dvc exp run -S federated.local.lr=0.0001", project)
    assert ran(output) == ["check", "federated", "local", "compare", "report"]
    assert restored(output) == []
    output = run("dvc exp run -S federated.local.lr=0.001", project)
    assert {"federated", "local"} <= set(restored(output))
    assert set(ran(output)) <= {"check", "compare", "report"}
    assert run("git status --porcelain", project) == ""


def test_another_strategy_does_not_train_clients_alone_again(project: Path):
    """It changes nothing that they do; fedsgd does, for its clients take one step a round."""
    output = run("dvc exp run -S federated.strategy=scaffold -S federated.dropout=0.2", project)
    assert ran(output) == ["check", "federated", "compare", "report"]
    run("fedpipe reset --yes", project)
    assert run("git status --porcelain", project) == ""


def test_what_the_tables_say_of_clients_is_what_the_stages_wrote(project: Path):
    clients = pd.read_csv(project / "reports/clients.csv")
    alone = pd.read_csv(project / "reports/local/clients.csv")
    manifest = pd.read_csv(project / "data/shards/manifest.csv")
    figures = json.loads((project / "reports/comparison.json").read_text())
    assert clients["client"].tolist() == manifest["client"].tolist() == alone["client"].tolist()
    assert clients["local_test_accuracy"].tolist() == alone["test_accuracy"].tolist()
    assert (clients["federated_test_accuracy"] == figures["federated"]["accuracy"]).all()
    assert figures["local"]["accuracy"] == pytest.approx(alone["test_accuracy"].mean())
    assert figures["comparison"]["clients_gaining"] == (clients["gain"] > 0).mean()
    assert alone["examples_processed"].sum() == figures["federated"]["examples_processed"]


def test_the_metrics_are_few_and_their_table_fits_a_terminal(project: Path):
    table = run("dvc metrics show", project)
    assert max(map(len, table.splitlines())) <= 120
    files = json.loads(run("dvc metrics show --json", project))[""]["data"]  # in which what is null is left out
    pairs = [pair for file in files for pair in json.loads((project / file).read_text()).items()]
    shown = dict(pairs)
    assert sorted(name for name, _ in pairs) == [
        "accuracy", "centralised", "gain", "gap", "local", "loss", "sample", "to_target",
    ]  # fmt: skip
    figures = json.loads((project / "reports/comparison.json").read_text())
    assert shown["accuracy"] == figures["federated"]["accuracy"]
    assert shown["centralised"] == figures["centralised"]["accuracy"]
    assert shown["local"] == figures["local"]["accuracy"]
    assert shown["gap"] == pytest.approx(100 * (shown["accuracy"] - shown["centralised"]))
    assert shown["gain"] == figures["comparison"]["mean_gain_points"]


def test_a_parameter_that_the_chosen_strategy_does_not_use_reruns_no_training(project: Path):
    output = run(
        "dvc exp run -S federated.fedprox.mu=0.5 -S partition.dirichlet.alpha=0.3 -S model.resnet.blocks=2 "
        "-S download.split_seed=1 -S compute.checkpoint_every=3",
        project,
    )
    assert ran(output) == ["check"]
    assert "federated.fedprox.mu" in run("dvc params diff", project)
    run("fedpipe reset --yes", project)
    assert run("git status --porcelain", project) == ""


STRATEGY = '''"""Half steps."""

from torch import Tensor

from fedpipe.federated.messages import Aggregate, State
from fedpipe.federated.strategies.base import Strategy


class Half(Strategy):
    """w + lr Δ."""

    lr: float = 0.5

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        return weights + self.lr * aggregate.delta, {}
'''


def test_a_new_strategy_reruns_no_training_until_it_is_chosen(project: Path):
    """One in the library: a file, and its name in the table."""
    folder = project / "fedpipe/federated/strategies"
    (folder / "half.py").write_text(STRATEGY)
    table = (folder / "__init__.py").read_text()
    module = "fedpipe.federated.strategies"
    table = table.replace(f"from {module}.qfedavg", f"from {module}.half import Half\nfrom {module}.qfedavg")
    table = table.replace('"q-fedavg"', '"half": Half,\n    "q-fedavg"')
    (folder / "__init__.py").write_text(table)
    set_params(project, {"federated.half": {"lr": 0.5}})
    try:
        assert ran(run("dvc repro", project)) == ["check"]
        assert ran(run("dvc exp run -S federated.strategy=half", project)) == [
            "check",
            "federated",
            "compare",
            "report",
        ]
    finally:
        (folder / "half.py").unlink()
        run("git checkout fedpipe && fedpipe reset --yes", project)
    assert run("dvc repro && git status --porcelain", project).endswith("up to date.\n")


def test_a_class_of_ones_own_is_named_in_params_and_reruns_what_uses_it_when_its_file_changes(project: Path):
    set_params(project, {"federated.strategy": "mine:Half", "federated.Half": {"lr": 0.9}})
    (project / "own/mine.py").write_text(STRATEGY)
    try:
        assert ran(run("dvc repro", project)) == ["check", "federated", "compare", "report"]
        named = json.loads((project / "data/inputs/federated.json").read_text())
        assert named["parameters"]["federated"]["strategy"] == {
            "class": "mine:Half", "code": named["code"]["own/mine.py"], "lr": 0.9,
        }  # fmt: skip
        assert ran(run("dvc repro", project)) == []
        (project / "own/mine.py").write_text(STRATEGY.replace("self.lr *", "0.5 * self.lr *"))
        assert ran(run("dvc repro", project)) == ["check", "federated", "compare", "report"]
        assert ran(run("dvc exp run -S federated.Half.lr=0.7", project)) == ["check", "federated", "compare", "report"]
        output = run("dvc exp run -S federated.Half.lr=none", project, fails=True)
        assert 'params.yaml: federated.Half.lr: "none" is not a number' in output
    finally:
        (project / "own/mine.py").unlink()
        run("fedpipe reset --yes", project)
    assert run("git status --porcelain", project) == ""


ANOTHER_CPU = """
import pathlib, platform

read = pathlib.Path.read_text

def read_text(path, *arguments, **options):
    text = read(path, *arguments, **options)
    return text.replace("model name\\t: ", "model name\\t: Another ") if str(path) == "/proc/cpuinfo" else text

pathlib.Path.read_text, platform.machine = read_text, lambda: "Another"
"""


def test_another_cpu_type_with_the_same_results_changes_the_provenance_and_its_page_alone(
    project: Path, tmp_path: Path
):
    """As on another machine: nothing is cached there, and everything runs."""
    run(f"git clone -q {project} {tmp_path / 'clone'}", tmp_path)
    (tmp_path / "faked").mkdir()
    (tmp_path / "faked/sitecustomize.py").write_text(ANOTHER_CPU)
    output = run(f"PYTHONPATH={tmp_path / 'faked'} dvc repro", tmp_path / "clone")
    assert "federated" in ran(output)
    assert run("git status --porcelain", tmp_path / "clone") == "M  dvc.lock\n M reports/provenance.json\n"
    before, after = (hashes(folder) for folder in (project, tmp_path / "clone"))
    assert {path for path in before if before[path] != after[path]} == {"reports/report.html"}
    told = json.loads((tmp_path / "clone/reports/provenance.json").read_text())
    assert told["federated"]["cpu"].startswith("Another")


def test_an_experiment_takes_any_partition_and_any_strategy(project: Path):
    output = run(
        "dvc exp run -S partition.scheme=dirichlet+quantity+feature -S partition.dirichlet.alpha=0.3 "
        "-S partition.holdout=0.2 -S federated.strategy=scaffold -S federated.dropout=0.4 -S federated.min_updates=4 "
        "-S federated.local.batch_size=null -S model.name=reference-cnn",
        project,
    )
    assert ran(output) == ["check", "partition", "federated", "baseline", "local", "compare", "report"]
    assert "dirichlet+quantity+feature: 8 clients of " in output
    figures = json.loads((project / "reports/comparison.json").read_text())
    assert figures["partition"]["examples"] + figures["partition"]["held_out"] == 4000
    assert figures["partition"]["label_entropy"] < 3
    assert figures["partition"]["gini"] > 0.2
    rounds = pd.read_csv(project / "reports/federated/rounds.csv")
    assert figures["federated"]["skipped_rounds"] == rounds["skipped"].sum() > 0
    assert "clients returned an update, federated.min_updates is 4; the model stays as it is" in output
    clients = pd.read_csv(project / "reports/federated/clients.csv")
    assert set(clients["round"]) == set(rounds.loc[rounds["skipped"] == 0, "round"])
    assert list((project / "models").glob(".*/")) == []
    run("git checkout . && dvc checkout", project)
    assert run("git status --porcelain", project) == ""


def test_own_colour_images_go_through_the_pipeline_a_folder_a_client(project: Path):
    run("python examples/colour_digits.py data/own/colours", project)
    settings = "-S download.dataset=own -S download.path=data/own/colours -S partition.scheme=natural"
    try:
        output = run(f"dvc exp run {settings} -S partition.clients=5 -S model.name=resnet", project)
        assert ran(output) == ["check", "download", "partition", "federated", "baseline", "local", "compare", "report"]
        description = json.loads((project / "data/dataset/dataset.json").read_text())
        assert [description[name] for name in ("height", "width", "channels", "classes")] == [28, 28, 3, 10]
        assert description["client_names"] == ["anna", "ben", "cleo", "dina", "emil"]
        manifest = pd.read_csv(project / "data/shards/manifest.csv")
        assert manifest["examples"].tolist() == [360] * 5
        assert {path.stem for path in (project / "reports").glob("*.csv")} >= {"comparison"}
        assert json.loads((project / "reports/comparison.json").read_text())["federated"]["dataset"] == "colours"
        (project / "data/own/colours/ben/3/000.png").write_text("no image")
        output = run("dvc repro", project, fails=True)
        assert "data/own/colours/ben/3/000.png: no image, or damaged\n" in output
        assert "Traceback" not in output
    finally:
        run("rm -r data/own/colours && fedpipe reset --yes", project)
    assert run("git status --porcelain", project) == ""


def test_a_bad_parameter_stops_the_run_before_any_output_is_removed(project: Path):
    output = run("dvc exp run -S federated.clients_per_round=50", project, fails=True)
    assert "params.yaml: federated.clients_per_round: 50 exceeds partition.clients = 8\n" in output
    assert "Traceback" not in output
    for out in hashes(project):
        assert (project / out).exists(), out
    run("git checkout -q params.yaml dvc.lock && dvc repro", project)
    assert run("git status --porcelain", project) == ""


def test_more_clients_than_the_data_set_has_examples_are_refused(project: Path):
    output = run("dvc exp run -S partition.clients=5000", project, fails=True)
    assert (
        "params.yaml: partition.clients: 5000 exceeds the 4000 training examples; "
        "partition.examples_per_client draws them with replacement\n"
    ) in output
    assert (project / "data/shards/manifest.csv").exists()
    run("git checkout . && dvc checkout", project)
    assert run("git status --porcelain", project) == ""


def test_metrics_and_plots_of_two_branches_compare_in_a_fresh_clone(project: Path, tmp_path: Path):
    run("git checkout -q -b slow-rate && dvc exp run -S federated.local.lr=0.0001 && git add -A", project)
    run("git commit -q -m 'A lower rate' && git checkout -q main && dvc checkout", project)
    run(f"git clone -q {project} {tmp_path / 'clone'}", project)
    clone = tmp_path / "clone"
    run("git branch slow-rate origin/slow-rate", clone)
    difference = json.loads(run("dvc metrics diff main slow-rate --json", clone))
    accuracy = difference["reports/federated/metrics.json"]["accuracy"]
    assert accuracy["diff"] == pytest.approx(accuracy["new"] - accuracy["old"])
    assert accuracy["new"] < accuracy["old"]
    table = run("dvc metrics diff main slow-rate", clone)
    assert "accuracy" in table
    assert max(map(len, table.splitlines())) <= 100
    plots = json.loads(run("dvc plots diff main slow-rate --json", clone))
    assert "errors" not in plots


def test_the_page_of_plots_draws_every_plot_and_needs_no_network(project: Path):
    output = run("dvc plots show", project)
    page = (project / "dvc_plots/index.html").read_text()
    assert page.count("vegaEmbed('#") == 11
    assert "error" not in output.lower()
    own = page[: page.index("<script>")] + page[page.index("</script>") :]  # all but the inlined library
    assert not re.findall(r"<[^>]*(?:src|href)\s*=", own)
    assert page.count(SAMPLE) >= 9


def test_results_verify_against_the_commit_and_a_difference_is_told(project: Path):
    assert "equal to HEAD" in run("fedpipe verify", project)
    metrics = project / "reports/comparison.json"
    provenance = project / "reports/provenance.json"
    text, told = metrics.read_text(), provenance.read_text()
    try:
        result = json.loads(text)
        result["federated"]["loss"] += 0.004
        metrics.write_text(json.dumps(result))
        assert "reports/comparison.json: federated.loss: " in run("fedpipe verify", project, fails=True)
        made = json.loads(provenance.read_text())
        made["federated"]["cpu"] = "another type"  # whose rounding differs: within the tolerance
        provenance.write_text(json.dumps(made))
        assert "agrees with HEAD, made on another CPU type or torch" in run("fedpipe verify", project)
        result["federated"]["accuracy"] -= 0.01
        metrics.write_text(json.dumps(result))
        assert "federated.accuracy: " in run("fedpipe verify", project, fails=True)
    finally:
        metrics.write_text(text)
        provenance.write_text(told)
