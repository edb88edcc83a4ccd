"""What a project says about itself, and its workflows and hooks: they agree with each other, and run what there is."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, checkout, run, set_params

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROGRAMS = {"cat", "cml", "echo", "export", "make"}  # which a runner or its steps bring


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job["steps"]


def test_the_citation_names_the_version_and_licence_of_the_package():
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["title"] == PROJECT["name"]


def test_the_changelog_tells_of_this_version():
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]|^The first version, {re.escape(PROJECT['version'])}\.$",
                     (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)  # fmt: skip


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_only_but_where_it_runs_nothing_of_a_pull_request(workflow: Path):
    content = load(workflow)
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in content["on"]
    for job in content["jobs"].values():
        writes = {name for name, level in job.get("permissions", {}).items() if level != "read"}
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
                assert not writes or step["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
        assert writes <= {"pull-requests"}
        assert job["timeout-minutes"] <= 90


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_with_their_version_beside_them(workflow: Path):
    """To a commit; Setup CML to a version."""
    lines = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    assert len(lines) == sum("uses" in step for step in steps(workflow)) > 0
    for line in lines:
        assert re.search(
            r"uses: (actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|iterative/setup-cml@v\d+\.\d+\.\d+)$", line
        )


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_programs_that_there_are(workflow: Path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in steps(workflow):
        for line in step.get("run", "").splitlines():
            program, *arguments = re.sub(r'^(?:\w+=(?:"[^"]*"|\S*) )+', "", line).split()
            if program.startswith(".ci/"):
                assert (ROOT / program).stat().st_mode & 0o111, line
            elif program == "make":
                assert set(arguments) <= set(targets), line
            elif program not in PROGRAMS:
                program = program.removeprefix(".venv/bin/")
                assert shutil.which(program, path=Path(sys.executable).parent), line


def test_the_hooks_run_programs_of_the_environment():
    for hook in load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert shutil.which(hook["entry"].split()[0], path=Path(sys.executable).parent)


@pytest.mark.slow
def test_the_report_of_a_pull_request_tells_what_changed_and_leaves_the_checkout_alone(tmp_path: Path):
    project = checkout(tmp_path)
    set_params(project, {"model.name": "logistic"})
    run("git commit -q -a -m 'A small model'", project)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        re.sub(r"^    lr: 0\.001$", "    lr: 0.003", text, count=1, flags=re.MULTILINE)
    )
    run("git commit -q -a -m 'A higher rate'", project)
    run("bash .ci/report HEAD^ HEAD report", project)
    report = (project / "report/report.md").read_text()
    assert re.search(r"^\| params.yaml +\| federated.local.lr +\| 0.001 +\| 0.003 +\|$", report, re.MULTILINE)
    before, after = re.search(r"^\| accuracy +\| ([\d.]+) +\| ([\d.]+) ", report, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert before != after
    assert "MNIST sample (5,000 images)" in report
    page = (project / "report/plots.html").read_text()
    assert page.count("vegaEmbed('#") == 11
    assert page.count('"rev": "before"') > 0
    assert page.count('"rev": "after"') > 0
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True)
    assert changed.stdout == "?? report/\n"


def test_git_holds_no_large_file():
    """Data belong to DVC."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, text=True, capture_output=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [file for file in files if file.is_file() and file.stat().st_size > 2**20] == []
