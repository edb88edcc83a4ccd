"""Results count as verified only if this machine made them, and bits must be equal only on machines that are alike."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fedpipe.results.verify import MADE, REPORT, Verdict, verify
from fedpipe.system.errors import UserError
from fedpipe.system.files import write_json
from fedpipe.system.provenance import provenance

HERE = provenance(torch.device("cpu"))
ELSEWHERE = HERE | {"cpu": "another type"}


def write_results(machine: dict[str, str], *, accuracy: float = 0.99, loss: float = 0.034) -> None:
    """Write the report, and the models, the table and the provenance that a run leaves beside it."""
    report: dict[str, Any] = {
        "comparison": {"gap_points": 0.02, "rounds_to_target": 2},
        "federated": {"dataset": "MNIST", "accuracy": accuracy, "loss": loss, "rounds": 5},
        "centralised": {"dataset": "MNIST", "accuracy": 0.9898, "loss": 0.043, "epochs": 15},
        "local": {"dataset": "MNIST", "accuracy": 0.97, "accuracy_std": 0.002, "loss": 0.1, "epochs": 12.5},
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report))
    for made in MADE.values():
        made.parent.mkdir(exist_ok=True, parents=True)
        made.touch()
    write_json("reports/provenance.json", dict.fromkeys(MADE, machine))


def commit() -> None:
    """Commit the reports in a new repository, and leave the models out, as the project does."""
    for command in (
        ["init", "-q"],
        ["config", "user.name", "A User"],
        ["config", "user.email", "user@example.org"],
        ["add", "reports"],
        ["commit", "-q", "-m", "Results"],
    ):
        subprocess.run(["git", *command], check=True)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_equal_results_of_one_machine_are_verified_to_the_last_bit():
    write_results(HERE)
    commit()
    assert verify() == Verdict(exact=True, differences=[], made_elsewhere=[])


def test_on_one_machine_the_last_bit_of_a_metric_makes_a_difference():
    write_results(HERE)
    commit()
    other = math.nextafter(0.034, 1)
    write_results(HERE, loss=other)
    assert verify() == Verdict(True, [f"{REPORT}: federated.loss: {other} here, 0.034 in HEAD"], [])


@pytest.mark.parametrize("name", ["cpu", "torch", "device"])
def test_results_of_another_machine_are_held_to_a_tolerance(name: str):
    write_results(HERE | {name: "another"})
    commit()
    write_results(HERE, accuracy=0.992, loss=0.05)
    assert verify() == Verdict(exact=False, differences=[], made_elsewhere=[])
    write_results(HERE, accuracy=0.98, loss=0.055)
    assert verify().differences == [
        f"{REPORT}: federated.accuracy: 0.98 here, 0.99 in HEAD",
        f"{REPORT}: federated.loss: 0.055 here, 0.034 in HEAD",
    ]


def test_results_that_another_machine_made_are_not_taken_for_this_machines():
    """The workspace equals the commit, but neither says anything about the machine that compares them."""
    write_results(ELSEWHERE)
    commit()
    verdict = verify()
    assert (verdict.exact, verdict.differences) == (False, [])
    assert verdict.made_elsewhere == [
        f"{stage}: made on another type with torch {HERE['torch']}; "
        f"this machine is {HERE['cpu']} with torch {HERE['torch']}"
        for stage in ("federated", "baseline", "local")
    ]


@pytest.mark.parametrize("absent", [["federated", "baseline"], ["federated"], ["baseline"], ["local"]])
def test_where_the_pipeline_did_not_run_nothing_is_verified(absent: list[str]):
    write_results(HERE)
    commit()
    for stage in absent:
        MADE[stage].unlink()
    with pytest.raises(UserError, match=r"^these results were not made here: [^\n]* `dvc repro` [^\n]*$") as caught:
        verify()
    assert [stage for stage, made in MADE.items() if str(made) in str(caught.value)] == absent


@pytest.mark.parametrize(
    ("revision", "reason"), [("HEAD", "not a git repository"), ("nonsense", "invalid object name 'nonsense'")]
)
def test_without_committed_results_there_is_one_line_that_says_why(revision: str, reason: str):
    write_results(HERE)
    if revision != "HEAD":
        commit()
    with pytest.raises(UserError, match=rf"^{REPORT}: cannot be read from git at {revision}: {reason}[^\n]*$"):
        verify(revision)


def test_a_report_that_is_not_committed_is_named():
    write_results(HERE)
    text = REPORT.read_text()
    REPORT.unlink()
    commit()
    REPORT.write_text(text)
    with pytest.raises(UserError, match=rf"^{REPORT}: cannot be read from git at HEAD: "):
        verify()


def test_a_loss_that_is_not_a_number_equals_itself_and_no_number():
    write_results(HERE, loss=math.nan)
    commit()
    assert verify() == Verdict(exact=True, differences=[], made_elsewhere=[])
    for machine in (HERE, ELSEWHERE):
        write_results(machine, loss=0.034)
        assert verify().differences == [f"{REPORT}: federated.loss: 0.034 here, nan in HEAD"]


def test_a_metric_that_one_side_lacks_is_a_difference():
    write_results(ELSEWHERE)
    commit()
    write_results(HERE)
    report = json.loads(REPORT.read_text())
    del report["federated"]["rounds"]
    REPORT.write_text(json.dumps(report))
    assert verify().differences == [f"{REPORT}: federated.rounds: missing here, 5 in HEAD"]
