"""The program `fedpipe` starts fast, and its commands answer in lines that people and programs can read."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from ruamel.yaml import YAML

from fedpipe.config.template import paths
from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from fedpipe.data.skew import skew
from fedpipe.pipeline import Pipeline
from fedpipe.results.population import SHOWN, Population
from tests.conftest import ROOT
from tests.federations import SIZES

SLOW = {"torch", "numpy", "pandas", "sklearn", "scipy", "dvc", "dvc_render", "vl_convert", "pydantic", "ruamel", "ray"}
COMMANDS = [
    "check",
    "params",
    "inspect",
    "privacy",
    "audit",
    "doctor",
    "reset",
    "watch",
    "verify",
    "summary",
    "predict",
    "export",
]
PROGRAMS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # with this Python's first


def fedpipe(
    *arguments: str, folder: Path = ROOT, answer: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedpipe", *arguments], cwd=folder, capture_output=True, text=True, input=answer,
        env=os.environ | {"PATH": PROGRAMS, "PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def run(command: str, folder: Path) -> str:
    """Run a command line that succeeds, and return what it prints."""
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PATH": PROGRAMS})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_starts_without_what_single_commands_need():
    code = "import sys, fedpipe.cli; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert SLOW & set(shown.stdout.split()) == set()


@pytest.fixture(scope="module")
def overview() -> str:
    return fedpipe("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_command_and_the_help_of_each_fits_100_columns_and_has_an_example(command: str, overview: str):
    assert f" {command} " in overview
    shown = fedpipe(command, "--help", COLUMNS="100")
    assert shown.returncode == 0
    assert f"Usage: fedpipe {command}" in shown.stdout
    assert re.search(rf"Examples?:\s+(.*; |.* && )?fedpipe {command}", shown.stdout)
    assert max(map(len, shown.stdout.splitlines())) <= 100


@pytest.fixture(scope="module")
def overview_of_studies() -> str:
    return fedpipe("study", "--help").stdout


@pytest.mark.parametrize("command", ["check", "run", "show"])
def test_the_help_of_each_command_on_studies_fits_100_columns_and_has_an_example(
    command: str, overview_of_studies: str
):
    assert f" {command} " in overview_of_studies
    shown = fedpipe("study", command, "--help", COLUMNS="100")
    assert re.search(rf"Examples?:\s+fedpipe study {command} studies/", shown.stdout)
    assert max(map(len, shown.stdout.splitlines())) <= 100


def test_the_version_is_that_of_the_packages_and_of_python():
    shown = fedpipe("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    assert shown.stdout == f"fedpipe {version('fedpipe')}, Python {python}, torch {version('torch')}\n"
    assert shown.stderr == ""


def test_python_runs_the_package_and_its_module_alike():
    for module in ("fedpipe", "fedpipe.cli"):
        command = [sys.executable, "-m", module, "--version"]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_a_run_is_not_put_beside_itself():
    done = fedpipe("compare", "HEAD", "HEAD")
    assert (done.returncode, done.stderr) == (1, "HEAD: named twice; a run beside itself shows nothing\n")


def test_the_shell_completes_commands(overview: str):
    completed = fedpipe(_FEDPIPE_COMPLETE="complete_bash", COMP_WORDS="fedpipe re", COMP_CWORD="1")
    assert completed.stdout.split() == ["report", "reset"]
    assert "--install-completion" in overview


def test_an_unknown_command_is_a_mistake_on_standard_error():
    done = fedpipe("resett")
    assert (done.returncode, done.stdout) == (2, "")
    assert "reset" in done.stderr


@pytest.fixture(scope="module")
def printed() -> subprocess.CompletedProcess[str]:
    return fedpipe("params")


class TestParams:
    """`fedpipe params` documents every parameter."""

    def test_the_printed_parameters_are_valid_and_every_one_has_a_comment(
        self, printed: subprocess.CompletedProcess[str], tmp_path: Path
    ):
        path = tmp_path / "params.yaml"
        path.write_text(printed.stdout)
        checked = fedpipe("check", str(path))
        assert (checked.returncode, checked.stdout) == (0, f"{path}: valid\n"), checked.stderr
        assert YAML(typ="safe", pure=True).load(path)["compare"] == {"target_accuracy": 0.985}
        lines = printed.stdout.splitlines()
        assert lines[0].startswith("# ")
        undescribed = [
            line for above, line in pairwise(lines) if line and "#" not in line and not above.lstrip().startswith("#")
        ]
        assert undescribed == []
        assert max(map(len, lines)) <= 120
        assert printed.stderr == ""

    def test_the_repositorys_file_is_what_it_prints(self, printed: subprocess.CompletedProcess[str]):
        assert printed.stdout == (ROOT / "params.yaml").read_text()

    def test_the_page_of_parameters_is_what_it_prints_as_markdown(self):
        page = fedpipe("params", "--markdown").stdout
        assert page == (ROOT / "docs/parameters.md").read_text()
        known = list(paths(Pipeline))
        leaves = [path for path in known if not any(other.startswith(f"{path}.") for other in known)]
        rows = re.findall(r"^\| `(.+?)` \| `.+` \| .+ \| .+ \|$", page, re.MULTILINE)
        assert sorted(rows) == sorted(leaves)

    def test_one_parameter_is_printed_with_its_bounds(self):
        assert fedpipe("params", "federated.dropout").stdout == (
            "federated:\n"
            "  # Probability that a client of the cohort drops out: it is sent the model and returns no update. "
            "At least 0, less than\n  # 1.\n"
            "  dropout: 0.0\n"
        )

    def test_an_unknown_one_is_one_line_that_names_the_nearest(self):
        done = fedpipe("params", "federated.round")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "federated.round: unknown parameter; did you mean federated.rounds?\n"


class TestCheck:
    """`fedpipe check` tells whether params.yaml makes sense."""

    def test_a_mistake_is_one_line_and_the_exit_status_is_1(self, tmp_path: Path):
        path = tmp_path / "params.yaml"
        path.write_text("compare:\n  target_accuracy: 2.0\n")
        checked = fedpipe("check", str(path))
        assert (checked.returncode, checked.stdout) == (1, "")
        assert checked.stderr == f"{path}: compare.target_accuracy: 2.0 must be less than 1\n"


class TestVerify:
    """`fedpipe verify` compares results with the committed ones."""

    def test_where_nothing_ran_it_does_not_succeed(self, tmp_path: Path):
        verified = fedpipe("verify", folder=tmp_path)
        assert (verified.returncode, verified.stdout) == (1, "")
        assert verified.stderr.count("\n") == 1


@pytest.mark.slow
class TestInspect:
    """`fedpipe inspect` shows what the clients hold."""

    def test_a_row_for_each_client_has_its_examples_and_a_block_for_each_label(self, folder: Path):
        shown = fedpipe("inspect", str(folder))
        rows = re.findall(r"^ +(\d+) +([\d,]+) +0 +((?:[·▁▂▃▄▅▆▇█] ){9}[·▁▂▃▄▅▆▇█]) *$", shown.stdout, re.MULTILINE)
        assert [(int(client), int(examples)) for client, examples, _ in rows] == list(enumerate(SIZES))
        assert all("█" in blocks for _, _, blocks in rows)
        assert re.search(rf"^ +all {len(SIZES)} +{sum(SIZES):,} +0 ", shown.stdout, re.MULTILINE)
        assert shown.stderr == ""

    def test_json_is_what_was_divided(self, folder: Path):
        shown = fedpipe("inspect", "--json", str(folder))
        found = json.loads(shown.stdout)
        opened = store.open_store(folder)
        counts = np.stack([np.bincount(opened.examples(client)[1], minlength=10) for client in range(len(SIZES))])
        assert [client["labels"] for client in found["each"]] == counts.tolist()
        assert [client["examples"] for client in found["each"]] == list(SIZES)
        assert found["labels"] == counts.sum(axis=0).tolist()
        assert (found["clients"], found["examples"], found["held_out"]) == (len(SIZES), sum(SIZES), 0)
        assert found["skew"] == pytest.approx(skew(counts))
        assert shown.stderr == ""

    def test_a_large_population_is_shown_in_part_unless_all_is_asked_for(self, sample: Dataset, tmp_path: Path):
        order = np.random.default_rng(0).permutation(len(sample.train))
        store.write(tmp_path / "shards", sample.train.images, sample.train.labels, np.array_split(order, 130), 10)
        part, whole = (fedpipe("inspect", *options, str(tmp_path / "shards")) for options in ((), ("--all",)))
        clients = [
            [int(client) for client in re.findall(r"^ +(\d+) +3[01] ", shown.stdout, re.MULTILINE)]
            for shown in (part, whole)
        ]
        assert len(clients[0]) == SHOWN
        assert {0, 129} < set(clients[0])
        assert clients[1] == list(range(130))
        assert "--all" in part.stderr

    @pytest.mark.parametrize("classes", [2, 10, 26, 27, 47, 62, 1000])
    @pytest.mark.parametrize("width", [80, 100])
    def test_any_number_of_labels_fits_the_terminal(self, classes: int, width: int):
        """Each client below has one label, so one of its blocks is whole and all others are none."""
        examples = np.full(30, 10_000)
        labels = np.zeros((30, classes), int)
        labels[np.arange(30), np.arange(30) * classes // 30] = examples
        printed = Console(width=width, record=True, file=StringIO())
        printed.print(Population(examples, examples, labels).as_table(width, all=True))
        lines = printed.export_text().splitlines()
        assert max(map(len, lines)) <= width
        rows = [line.split(maxsplit=3)[3] for line in lines if re.match(r" +\d+ +10,000 +10,000 ", line)]
        assert len(rows) == 30
        assert [sorted(set(row) - {" "}) for row in rows] == [sorted("·█")] * 30
        places = [row.index("█") for row in rows]
        assert places == sorted(places)
        assert len(set(places)) >= min(classes, 20)

    def test_where_nothing_was_divided_it_says_what_does_it(self, tmp_path: Path):
        shown = fedpipe("inspect", folder=tmp_path)
        assert (shown.returncode, shown.stdout) == (1, "")
        assert shown.stderr == "data/shards/manifest.csv: not there; `dvc repro partition` makes it\n"

    def test_what_was_altered_is_not_shown(self, folder: Path, tmp_path: Path):
        shutil.copytree(folder, tmp_path / "shards")
        manifest = tmp_path / "shards/manifest.csv"
        manifest.write_text(manifest.read_text().replace(",0,", ",1,", 1))
        shown = fedpipe("inspect", str(tmp_path / "shards"))
        assert (shown.returncode, shown.stdout) == (1, "")
        assert "it is not what SHA256SUMS says was written" in shown.stderr


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A small project of git and DVC: one stage, which fails for 13 rounds, after it has written, and sleeps for 60."""
    return shutil.copytree(prepared, tmp_path / "project", symlinks=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of which each test has a copy."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    (folder / "reports").mkdir(parents=True)
    (folder / "data/inputs").mkdir(parents=True)
    (folder / "params.yaml").write_text("# How long.\nrounds: 5\nlocal:\n  clip_norm:\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n"
        "  train:\n"
        "    cmd: sh train.sh\n"
        "    params: [rounds, local]\n"
        "    outs: [models/model, data/shards]\n"
        "    metrics:\n"
        "      - reports/metrics.json:\n"
        "          cache: false\n"
        "      - data/inputs/source.json:\n"
        "          cache: false\n"
    )
    (folder / "train.sh").write_text(
        "mkdir -p models data/shards\n"
        "number=$(sed -n 's/rounds: //p' params.yaml)\n"
        "test $number = 60 && sleep 60\n"
        "for out in models/model data/shards/client; do echo $number > $out; done\n"
        'for out in reports/metrics.json data/inputs/source.json; do echo "{\\"rounds\\": $number}" > $out; done\n'
        "test $number != 13\n"
    )
    run("git init -q -b main && git config user.name 'A User' && git config user.email user@example.org", folder)
    run("dvc init -q && dvc config core.analytics false && dvc config core.autostage true && dvc repro -q", folder)
    run("git add -A && git commit -q -m 'Five rounds'", folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Return what every file of the project holds, but for the tools' own."""
    files = (file for file in folder.rglob("*") if file.is_file() and not {".git", ".dvc"} & set(file.parts))
    return {str(file.relative_to(folder)): file.read_text() for file in files}


@pytest.mark.slow
class TestReset:
    """`fedpipe reset` goes back to what is committed."""

    def test_after_an_experiment_it_shows_what_is_lost_and_where_it_is_still_to_be_found(self, project: Path):
        before = contents(project)
        run("dvc exp run -q -n longer -S rounds=9 -S local.clip_norm=0.5", project)
        assert contents(project)["models/model"] == "9\n"
        done = fedpipe("reset", folder=project, answer="y\n")
        assert (done.returncode, done.stdout) == (0, "")
        for line in (
            "rounds: 9, committed: 5",
            "local.clip_norm: 0.5, committed: null",
            "params.yaml", "dvc.lock", "reports/metrics.json", "data/inputs/source.json",
        ):  # fmt: skip
            assert f"  {line}\n" in done.stderr
        assert "`dvc exp apply longer` brings it back" in done.stderr
        assert contents(project) == before
        assert run("git status --porcelain", project) == ""
        run("dvc exp apply -q longer", project)
        assert contents(project)["models/model"] == "9\n"

    def test_after_a_failed_experiment_it_says_that_nothing_of_it_was_saved(self, project: Path):
        before = contents(project)
        failed = subprocess.run(["dvc", "exp", "run", "-q", "-S", "rounds=13"], cwd=project, capture_output=True,
                                env=os.environ | {"PATH": PROGRAMS})  # fmt: skip
        assert failed.returncode != 0
        assert contents(project)["models/model"] == "13\n"
        done = fedpipe("reset", "--yes", folder=project)
        assert done.returncode == 0
        assert "  models/model, which DVC has not recorded\n" in done.stderr
        assert "DVC has saved no experiment with these parameters and results" in done.stderr
        assert contents(project) == before
        assert "up to date" in run("dvc status", project)

    @pytest.mark.parametrize("answer", ["n\n", ""])
    def test_who_does_not_say_yes_keeps_everything(self, answer: str, project: Path):
        (project / "params.yaml").write_text("rounds: 7\n")
        (project / "models/model").write_text("mine\n")
        before = contents(project)
        done = fedpipe("reset", folder=project, answer=answer)
        assert done.returncode == 1
        assert done.stderr.endswith("nothing was changed; `fedpipe reset --yes` does not ask\n")
        assert contents(project) == before

    def test_changes_of_code_and_files_that_the_commit_does_not_hold_stay(self, project: Path):
        mine = {
            "train.sh": "# mine\n",
            "reports/notes.md": "mine\n",
            "reports/staged.md": "mine\n",
            "data/own": "mine\n",
        }
        for name, text in mine.items():
            (project / name).write_text(text)
        run("git add reports/staged.md", project)
        (project / "params.yaml").write_text("rounds: 7\n")
        assert fedpipe("reset", "--yes", folder=project).returncode == 0
        assert contents(project).items() >= mine.items()
        assert contents(project)["params.yaml"].startswith("# How long.\nrounds: 5\n")

    def test_changes_that_were_staged_or_deleted_come_back_too(self, project: Path):
        before = contents(project)
        (project / "params.yaml").write_text("rounds: 7\n")
        run("git add params.yaml && rm -r reports models data/shards", project)
        assert fedpipe("reset", "--yes", folder=project).returncode == 0
        assert contents(project) == before
        assert run("git status --porcelain", project) == ""

    def test_a_params_yaml_that_cannot_be_read_comes_back_too(self, project: Path):
        before = contents(project)
        (project / "params.yaml").write_text("rounds: [\n")
        done = fedpipe("reset", "--yes", folder=project)
        assert (done.returncode, done.stdout) == (0, "")
        assert "whatever DVC has not recorded; it cannot tell: `dvc data`: " in done.stderr
        assert contents(project) == before

    def test_what_the_cache_lacks_is_told(self, project: Path):
        run("dvc exp run -q -S rounds=9", project)
        shutil.rmtree(project / ".dvc/cache")
        done = fedpipe("reset", "--yes", folder=project)
        assert done.returncode == 0
        assert "DVC's cache lacks data/shards, models/model; `dvc repro` makes what is missing\n" in done.stderr
        assert run("git status --porcelain", project) == ""
        run("dvc repro -q", project)
        assert contents(project)["models/model"] == "5\n"

    def test_where_nothing_differs_it_says_so_and_asks_nothing(self, project: Path):
        done = fedpipe("reset", folder=project)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith("nothing to do: ")

    def test_while_dvc_runs_a_stage_it_changes_nothing(self, project: Path):
        changed = (project / "params.yaml").read_text().replace("5", "60")
        (project / "params.yaml").write_text(changed)
        running = subprocess.Popen(["dvc", "repro", "-q"], cwd=project, env=os.environ | {"PATH": PROGRAMS},
                                   stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            lock = project / ".dvc/tmp/rwlock"
            until = time.monotonic() + 60
            while not (lock.exists() and str(running.pid) in lock.read_text()):
                assert time.monotonic() < until
                time.sleep(0.1)
            done = fedpipe("reset", "--yes", folder=project)
        finally:
            os.killpg(running.pid, 9)
            running.wait()
        assert done.returncode == 1
        assert re.fullmatch(rf"`.*repro.*` runs in this folder \(process {running.pid}\); .*\n", done.stderr)
        assert (project / "params.yaml").read_text() == changed
        assert fedpipe("reset", "--yes", folder=project).returncode == 0  # what was killed holds nobody up

    @pytest.mark.parametrize(
        ("break_it", "line"),
        [
            ("rm dvc.yaml", "dvc.yaml: not there; run from the folder that holds it"),
            ("rm -rf .git", "`git log`: fatal: not a git repository"),
            ("rm -rf .dvc", "`dvc data`: ERROR: you are not inside of a DVC repository"),
        ],
    )
    def test_where_there_is_no_project_it_says_what_is_missing(self, break_it: str, line: str, project: Path):
        run(break_it, project)
        done = fedpipe("reset", "--yes", folder=project)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(line)


@pytest.mark.slow  # each starts the program, and DVC
class TestDoctor:
    """`fedpipe doctor` looks whether everything is here that the pipeline needs."""

    def found(self, folder: Path, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Return the exit status and the findings by name."""
        done = fedpipe("doctor", "--json", folder=folder, **environment)
        assert done.stderr == ""
        return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}

    @pytest.fixture
    def clone(self, project: Path) -> Path:
        """A project whose parameters are fedpipe's."""
        shutil.copy(ROOT / "params.yaml", project)
        return project

    def test_in_a_fresh_clone_only_what_the_pipeline_makes_is_missing(self, clone: Path):
        status, found = self.found(clone)
        assert status == 0
        assert {name for name, finding in found.items() if finding["status"] != "ok"} == {"data", "models"}
        assert found["torch"]["found"] == version("torch")
        assert found["dvc"]["found"] == version("dvc")
        assert found["DVC cache"]["found"].startswith(f"{clone / '.dvc/cache'}: ")
        assert found["params.yaml"]["found"] == "valid"

    def test_people_read_a_line_for_each_thing_and_what_would_help(self, clone: Path):
        done = fedpipe("doctor", folder=clone)
        assert re.search(r"^ok +torch +\d", done.stdout, re.MULTILINE)
        assert re.search(r"^warning +models +no models/.*\n +help: `dvc repro` makes them", done.stdout, re.MULTILINE)
        assert max(map(len, done.stdout.splitlines())) <= 100
        assert done.stderr == ""

    @pytest.mark.parametrize(
        ("environment", "status", "line"),
        [
            ({"FEDPIPE_DATA": "nowhere", "FEDPIPE_MNIST": str(ROOT)}, "problem", "FEDPIPE_DATA = nowhere: not there"),
            ({"FEDPIPE_MNIST": "nowhere"}, "problem", "FEDPIPE_MNIST = nowhere: not there"),
            ({"FEDPIPE_MNIST": "https://example.org/x"}, "ok", "FEDPIPE_MNIST = https://example.org/x"),
        ],
    )
    def test_a_source_of_data_that_is_neither_a_folder_nor_a_url_is_a_problem(
        self, environment: dict[str, str], status: str, line: str, clone: Path
    ):
        code, found = self.found(clone, **environment)
        assert code == (status == "problem")
        assert (found["source of data"]["status"], found["source of data"]["found"]) == (status, line)

    def test_a_mistake_in_the_parameters_is_a_problem(self, clone: Path):
        path = clone / "params.yaml"
        path.write_text(path.read_text().replace("rounds: 5", "rounds: 0"))
        status, found = self.found(clone)
        assert (status, found["params.yaml"]["status"]) == (1, "problem")
        assert found["params.yaml"]["found"] == "federated.rounds: 0 must be greater than 0"

    def test_outside_a_project_it_names_everything_that_is_missing(self, tmp_path: Path):
        status, found = self.found(tmp_path)
        assert status == 1
        wrong = {name: finding["status"] for name, finding in found.items() if finding["status"] != "ok"}
        assert wrong == {
            "git repository": "warning", "DVC repository": "problem", "data": "warning", "models": "warning",
            "params.yaml": "problem",
        }  # fmt: skip
        assert all(found[name]["help"] for name in wrong)

    def test_another_python_before_this_one_is_a_problem(self, clone: Path, tmp_path: Path):
        """The stages would run with it."""
        other = tmp_path / "bin"
        other.mkdir()
        (other / "python").write_text('#!/bin/sh\nprintf "/elsewhere\\ntorch\\n"\n')
        (other / "python").chmod(0o755)
        status, found = self.found(clone, PATH=f"{other}{os.pathsep}{PROGRAMS}")
        assert (status, found["python of the stages"]["status"]) == (1, "problem")
        assert "lacks torch" in found["python of the stages"]["found"]
