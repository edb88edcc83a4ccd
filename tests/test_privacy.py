"""Who acts as the server opens no client's examples or state, and a client none but its own, in whole trainings."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fedpipe.data import store
from fedpipe.data.datasets import Dataset
from tests.conftest import ROOT

FOR_ALL = {"manifest.csv", "SHA256SUMS"}  # how many examples there are of which client, and where


def opened(engine: str, strategy: str, folder: Path, test: Path, states: Path) -> dict[str, set[str]]:
    """What the server, and each client by its number, opened of the clients' files, but for the manifest."""
    states.mkdir()
    command = [sys.executable, "-m", "tests.privacy_audit", engine, strategy, folder, test, states]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        who, tab, path = line.partition("\t")
        if tab and Path(path).name not in FOR_ALL:
            found[who].add(path)
    return found


def own(client: str, path: str) -> bool:
    """Tell whether a file or a folder is a client's own."""
    return f"client-{int(client):05d}" in (Path(path).parent.name, Path(path).name, Path(path).stem)


@pytest.mark.parametrize(
    ("engine", "strategy"),
    [("threads", "scaffold"), ("processes", "scaffold"), ("ray", "scaffold")],
)  # fmt: skip
def test_each_opens_its_own(engine: str, strategy: str, folder: Path, test: Path, tmp_path: Path):
    found = opened(engine, strategy, folder, test, tmp_path / "states")
    assert found.pop("server", set()) == set()
    assert len(found) >= 3  # clients were drawn, and the hook heard of them
    for client, paths in found.items():
        assert all(own(client, path) for path in paths), (client, paths)
        assert any(path.startswith(str(folder.resolve())) for path in paths)
        assert any(path.startswith(str(tmp_path.resolve() / "states")) for path in paths)


@pytest.mark.parametrize("what", ["alone", "held out"])
@pytest.mark.parametrize("engine", ["processes", "ray"])
@pytest.mark.slow
def test_alone_or_evaluating_what_it_holds_out_each_opens_its_own(
    engine: str, what: str, sample: Dataset, test: Path, tmp_path: Path
):
    parts = [np.arange(100 * client, 100 * client + 40) for client in range(5)]
    held_out = [part + 40 for part in parts]
    folder = tmp_path / "shards"
    store.write(folder, sample.train.images, sample.train.labels, parts, 10, held_out=held_out)
    found = opened(engine, what, folder, test, tmp_path / "states")
    assert found.pop("server", set()) == set()
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    for client, paths in found.items():
        assert all(own(client, path) for path in paths), (client, paths)


def test_a_server_that_opened_examples_would_be_found_out(folder: Path, test: Path, tmp_path: Path):
    found = opened("processes", "a curious server", folder, test, tmp_path / "states")
    assert [Path(path).name for path in found["server"]] == ["client-00003.safetensors"]
