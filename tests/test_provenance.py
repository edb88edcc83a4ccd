"""What is written down of where results are from tells of the first time that they were made."""

import json
import platform
from pathlib import Path

import pytest
import torch

from fedpipe.system.provenance import FILE, provenance, recall, write_provenance
from tests.conftest import run

CPU = torch.device("cpu")


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hashes of results, in a repository with one commit."""
    monkeypatch.chdir(tmp_path)
    run("git init -q -b main && git config user.email u@example.org && git config user.name U", tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    sums = tmp_path / "reports/federated/SHA256SUMS"
    sums.parent.mkdir(parents=True)
    sums.write_text("results of seed 1\n")
    run("git add params.yaml && git commit -qm one", tmp_path)
    return sums


def told() -> dict:
    return json.loads(FILE.read_text())


def test_it_names_machine_commit_and_what_differed_from_it(sums: Path, tmp_path: Path):
    write_provenance("federated", CPU, sums, 12.345)
    made = told()["federated"]
    assert {key: made[key] for key in ("cpu", "torch", "device")} == provenance(CPU)
    assert made["python"] == platform.python_version()
    assert made["commit"] == run("git rev-parse HEAD", tmp_path).strip()
    assert made["changed"] == []
    assert made["seconds"] == 12.3
    (tmp_path / "params.yaml").write_text("seed: 2\n")
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "reports/metrics.json").write_text("{}")  # a result is no change of what made it
    write_provenance("baseline", CPU, sums)
    assert told()["baseline"]["changed"] == ["mine.py", "params.yaml"]
    assert told()["baseline"]["seconds"] is None
    assert told()["federated"] == made


def test_making_the_same_results_again_changes_nothing(sums: Path, tmp_path: Path):
    write_provenance("federated", CPU, sums, 10.0)
    before = FILE.read_bytes()
    run("git commit -q --allow-empty -m two", tmp_path)
    write_provenance("federated", CPU, sums, 20.0)
    assert FILE.read_bytes() == before
    sums.write_text("other results\n")
    write_provenance("federated", CPU, sums, 20.0)
    assert told()["federated"]["seconds"] == 20.0


def test_the_same_results_on_another_kind_of_machine_are_told_anew(sums: Path):
    write_provenance("federated", CPU, sums, 10.0)
    other = told()
    other["federated"] |= {"cpu": "another type", "seconds": 99.0}
    FILE.write_text(json.dumps(other))
    write_provenance("federated", CPU, sums, 20.0)
    assert told()["federated"]["seconds"] == 20.0


@pytest.mark.parametrize("known_by", ["HEAD", "refs/exps/12/345/odd-name"])
def test_what_comes_back_from_the_cache_is_told_as_the_commit_or_an_experiment_tells_it(
    known_by: str, sums: Path, tmp_path: Path
):
    write_provenance("federated", CPU, sums, 10.0)
    made = told()["federated"]
    run("git add -A && git commit -qm results", tmp_path)
    if known_by != "HEAD":
        run(f"git update-ref {known_by} HEAD && git reset -q --hard HEAD~1", tmp_path)
        sums.parent.mkdir(parents=True, exist_ok=True)
    sums.write_text("results of seed 2\n")
    write_provenance("federated", CPU, sums, 20.0)
    sums.write_text("results of seed 1\n")  # as `dvc checkout` or the run-cache brings them back
    recall({"federated": sums})
    assert told()["federated"] == made


def test_what_nobody_knows_stays_as_it_is_and_tells_that_it_is_of_others(sums: Path):
    write_provenance("federated", CPU, sums, 10.0)
    before = FILE.read_bytes()
    sums.write_text("results that nobody knows\n")
    recall({"federated": sums})
    assert FILE.read_bytes() == before


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("results\n")
    write_provenance("federated", CPU, tmp_path / "SHA256SUMS")
    assert (told()["federated"]["commit"], told()["federated"]["changed"]) == (None, None)
    recall({"federated": tmp_path / "SHA256SUMS"})


def test_a_damaged_file_is_written_anew(sums: Path):
    FILE.write_text("{")
    recall({"federated": sums})
    write_provenance("federated", CPU, sums)
    assert set(told()) == {"federated"}
