"""What ends a stage, and what is left of it: real processes and signals, on the offline sample."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.kills import WAYS, Killed, hunt, prepared

STAGE = """
import sys, time
from fedpipe.config.file import run_stage
def main():
    print("begun", flush=True)
    time.sleep(60)
    print("trained to the end", flush=True)
run_stage(main)
"""


def begun(parent: str, environment: dict[str, str]) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process that stands for DVC, and the stage that it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", parent], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    [stage] = [p for p in psutil.Process(process.pid).children(recursive=True) if "run_stage" in " ".join(p.cmdline())]
    return process, stage


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", STAGE],
        ["/bin/sh", "-c", f'{sys.executable} -c "$CODE"; true'],  # a shell that stays
    ],
    ids=["at once", "by a shell"],
)
def test_a_stage_ends_with_dvc(number: signal.Signals, command: list[str]):
    parent = f"import subprocess; subprocess.run({command})"
    process, stage = begun(parent, {"DVC_STAGE": "federated", "CODE": STAGE})
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert output == "dvc has ended, and so does this stage\n"
    assert psutil.wait_procs([stage], timeout=5)[1] == []


def test_a_stage_that_dvc_did_not_start_does_not_end_with_its_parent():
    """As when somebody runs it in the background and logs out."""
    process, stage = begun(f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {STAGE!r}])", {})
    process.kill()
    process.wait()
    time.sleep(1.5)
    assert stage.is_running()
    stage.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_told_to_end_puts_its_things_in_order(number: signal.Signals, status: int, tmp_path: Path):
    code = STAGE.replace("    time.sleep(60)", f"    with replacing({str(tmp_path / 'new')!r}): time.sleep(60)")
    code = "from fedpipe.system.files import replacing\n" + code
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=-1, stderr=-1)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == status
    assert errors == ("interrupted\n" if number == signal.SIGINT else "")
    assert not list(tmp_path.iterdir())


def test_interrupted_while_it_imports_a_stage_says_so_and_no_more(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.federated"], cwd=ROOT, text=True, stdout=-1, stderr=-1
    )  # fmt: skip
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert (output, errors) == ("", "interrupted\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("prepared") / "base")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_pipeline_that_is_killed_goes_on_exactly(seed: int, base: Path, tmp_path: Path):
    """A sample of what `python -m tests.kills` does."""
    chance = random.Random(seed)
    setting = {"federated.strategy": "scaffold", "compute.engine": ("processes", "ray")[seed], "seed": seed}
    killed: list[Killed] = []
    while not killed:
        killed = hunt(base, tmp_path / "project", setting, chance)
    assert [(one.way, one.verdict) for one in killed] == [(one.way, "well") for one in killed]
    assert {one.way for one in killed} <= set(WAYS)
    json.loads((tmp_path / "project/reports/federated/metrics.json").read_text())
