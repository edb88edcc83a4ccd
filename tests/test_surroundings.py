"""Where the system refuses something, a stage ends in a line, with every file whole; what is only odd has no effect.

Real limits, and real small disks where this process may mount one. The sample stands in for MNIST.
"""

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedpipe.data import store
from fedpipe.federated.state import ClientStates, ServerState
from fedpipe.system import files
from fedpipe.system.saved import save
from fedpipe.system.tensors import write_tensors
from tests.conftest import checkout, once, run, set_params

SMALL: dict[str, object] = {
    "download.retries": 0,
    "model.name": "logistic",
    "federated.strategy": "scaffold",  # which has clients' states to write
    "federated.rounds": 3,
    "federated.local.epochs": 1,
    "federated.local.optimizer": "sgd",
    "baseline.epochs": 2,
    "compute.workers": 2,
    "compute.checkpoint_every": 0.0,
}
STAGES = ("check", "download", "partition", "federated", "baseline", "local", "compare", "report")
LIVE = ("rounds.csv", "epochs.csv", "metrics.json")  # which grow while a stage runs
SPACES = (0, 4, 16, 64, 256, 1024, 4096)  # kilobytes that are free
slow = pytest.mark.slow


def write_shards(path: Path) -> None:
    store.write(path, torch.zeros(100, 28, 28, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64),
                [np.arange(100)], 10)  # fmt: skip


WRITERS: dict[str, Callable[[Path], None]] = {
    "tensors": lambda path: write_tensors(path, {"weights": torch.zeros(10_000)}),
    "a table": lambda path: files.write_table(path, [{"round": number} for number in range(9_000)]),
    "JSON": lambda path: files.write_json(path, list(range(9_000))),
    "a state of the server": lambda path: save(ServerState(1, {"weights": torch.zeros(10_000)}), path),
    "shards": write_shards,
}


@pytest.mark.parametrize("what", WRITERS)
def test_what_cannot_be_written_is_named_and_what_was_there_stays(what: str, tmp_path: Path):
    path, before = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("as it was")
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            WRITERS[what](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(path)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_a_clients_state_that_cannot_be_written_is_named_and_the_one_before_stays(tmp_path: Path):
    states, before = ClientStates(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    states.write(0, 1, {"strategy": {"control": torch.ones(3)}}, last_round=0, oldest_round=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            states.write(0, 2, {"strategy": {"control": torch.ones(9_000)}}, last_round=1, oldest_round=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "client-00000/round-00002.state")
    assert torch.equal(states.read(0, 1)["strategy"]["control"], torch.ones(3))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after every stage has run."""

    def make(folder: Path) -> None:
        checkout(folder)
        set_params(folder, SMALL)
        for stage in STAGES:
            run(f"python -m stages.{stage}", folder)

    return once("surroundings", make, tmp_path_factory)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file that stages wrote."""
    found = (
        path
        for name in ("data", "models", "reports")
        for path in (folder / name).rglob("*")
        if path.is_file() and path.name not in (".gitignore", "timings.csv")  # of which no two are equal
    )
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def ended(stage: str, folder: Path, *, under: str = "true", by: str = "") -> subprocess.CompletedProcess[str]:
    """A stage that ran after a shell command, and was started by another."""
    command = f"{under}; exec {by} {shlex.quote(sys.executable)} -m stages.{stage}"
    return subprocess.run(["/bin/bash", "-c", command], cwd=folder, text=True, capture_output=True)


def is_a_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.endswith(" and run it again\n"), done.stderr


def is_whole(folder: Path, expected: dict[str, str]) -> None:
    """Require that nothing is half-written, and nothing left over."""
    found = hashes(folder)
    assert found.keys() == expected.keys()
    for name in (name for name, sha256 in found.items() if sha256 != expected[name]):
        assert name.endswith(LIVE), name
        assert len(pd.read_csv(folder / name) if name.endswith(".csv") else json.loads((folder / name).read_text()))


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_on_a_full_disk_a_stage_ends_with_every_file_whole_and_goes_on_later(stage: str, project: Path, tmp_path: Path):
    with disk(tmp_path / "disk") as mounted:
        here = mounted / "project"
        shutil.copytree(project, here, ignore=shutil.ignore_patterns(".git", "checkpoints", "benchmarks"))
        expected, refused, said = hashes(here), 0, ""
        for free in SPACES:  # until a run has enough of it: more would show nothing new
            ballast = mounted / "ballast"
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(mounted).free - 1024 * free))
            done = ended(stage, here)
            if done.returncode:
                is_a_line(done)
                assert "No space left on device; free some space" in done.stderr
                refused += 1
            is_whole(here, expected)
            said += done.stdout
            ballast.unlink()
            if not done.returncode:
                break
        else:
            done = ended(stage, here)
        assert done.returncode == 0, done.stderr
        assert hashes(here) == expected
        assert refused >= 1
        if stage == "federated":
            assert refused >= 2
            assert "interrupted before: going on" in said


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_on_a_read_only_disk_a_stage_ends_with_every_file_as_it_was(stage: str, project: Path, tmp_path: Path):
    with disk(tmp_path / "disk") as mounted:
        here = mounted / "project"
        shutil.copytree(project, here, ignore=shutil.ignore_patterns(".git", "benchmarks"))
        expected = hashes(here)
        subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
        done = ended(stage, here)
        is_a_line(done)
        assert "Read-only file system; make it writable" in done.stderr
        assert hashes(here) == expected


PERMITTED = "setpriv --bounding-set=-dac_override,-dac_read_search" if os.geteuid() == 0 else ""  # root always is
CLOSED = {  # what may not be read or written
    "check": ["params.yaml"],
    "download": ["data/dataset"],
    "partition": ["data", "data/dataset/dataset.json", "data/dataset/train.safetensors"],
    "federated": ["data/dataset/test.safetensors", "data/shards", "data/shards/client-00002.safetensors", "models"],
    "baseline": ["data/dataset/train.safetensors", ".fedpipe/checkpoints"],
    "local": ["data/dataset/test.safetensors", "data/shards", "data/shards/client-00002.safetensors"],
    "compare": ["reports/federated/rounds.csv", "reports/baseline", "reports/figures"],
    "report": ["reports/federated/rounds.csv", "data/dataset/dataset.json", "reports/audit.json"],
}


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_without_permission_a_stage_ends_in_a_line_with_every_file_as_it_was(stage: str, project: Path, tmp_path: Path):
    if PERMITTED and not shutil.which("setpriv"):
        pytest.skip("root is permitted everything")
    here = tmp_path / "project"
    shutil.copytree(project, here, ignore=shutil.ignore_patterns(".git"))
    expected = hashes(here)
    for name in CLOSED[stage]:
        for mode in (0o000, 0o555) if (here / name).is_dir() else (0o000,):
            before = (here / name).stat().st_mode
            (here / name).chmod(mode)
            done = ended(stage, here, by=PERMITTED)
            (here / name).chmod(before)
            if done.returncode == 0 and mode == 0o555:
                continue  # it only reads what is there
            assert done.returncode == 1, done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert re.search(rf"{re.escape(name)}\b.*: Permission denied; make it (a )?readable", done.stderr), (
                done.stderr
            )
            is_whole(here, expected)


LIMITS = {
    "the size of files": ("ulimit -f 4", "File too large; raise the limit on the size of files (ulimit -f)"),
    "a full terminal": ("exec >/dev/full", "standard output: No space left on device"),
    "address space": ("ulimit -v 16000000", "raise it (ulimit -v unlimited)"),
}


@slow
@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        *((stage, "the size of files") for stage in STAGES[1:]),
        *((stage, "a full terminal") for stage in STAGES[1:]),
        ("compare", "address space"),
    ],
)
def test_a_limit_ends_a_stage_in_a_line(stage: str, limit: str, project: Path, tmp_path: Path):
    here, (under, said) = tmp_path / "project", LIMITS[limit]
    shutil.copytree(project, here, ignore=shutil.ignore_patterns(".git"))
    expected = hashes(here)
    done = ended(stage, here, under=under)
    is_a_line(done)
    assert said in done.stderr
    is_whole(here, expected)


ODD = {  # several at once where none can hide another
    "no home, a locale without letters, few files, a mask that lets nobody in": (
        "unset HOME; export LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0; ulimit -n 20; umask 077"
    ),
    "a decimal comma, another time zone, one core, another hash seed": (
        "export LANG=de_DE.UTF-8 TZ=Asia/Kathmandu PYTHONHASHSEED=7; taskset -cp 0 $$ >/dev/null"
    ),
    "optimised": "export PYTHONOPTIMIZE=2",  # by itself: it leaves out what asserts
    "no standard streams": "exec <&- >&- 2>&-",
}


@slow
@pytest.mark.parametrize("odd", ODD)
def test_odd_surroundings_have_no_effect(odd: str, project: Path, tmp_path: Path):
    here = tmp_path / "a café's “project” 東京"
    shutil.copytree(project, here, ignore=shutil.ignore_patterns(".git", "checkpoints"))
    expected = hashes(here)
    for name in ("data/dataset", "data/inputs", "data/shards", "models"):
        shutil.rmtree(here / name)
    for stage in STAGES:
        done = ended(stage, here, under=ODD[odd])
        assert (done.returncode, done.stderr) == (0, "")
    assert hashes(here) == expected
