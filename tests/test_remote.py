"""The commands of docs/how-to/remote.md, as they stand there, on a real S3 server and on a shared folder."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Reproduced, hashes, ran, restored, run

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs/how-to/remote.md").read_text()


def blocks(heading: str) -> list[str]:
    """Return the commands under a heading of the guide, a string for each block."""
    [section] = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an S3 server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    bucket = urllib.request.Request(f"{address}/my-bucket", method="PUT")
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(bucket).close()
                break
            except urllib.error.URLError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def runs(clone: Path) -> set[str]:
    """Return the names of the runs in a clone's run-cache."""
    return {file.name for file in (clone / ".dvc/cache/runs").rglob("*") if file.is_file()}


@pytest.fixture
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing on this machine gives DVC the keys of a bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "aws"))
    (tmp_path / "aws").touch()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("no_keys")
@pytest.mark.parametrize("kind", ["An S3 bucket", "A shared folder"])
def test_what_one_clone_pushes_another_pulls_and_trains_nothing(
    kind: str, reproduced: Reproduced, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = {
        "https://s3.example.org": s3,
        "https://git.example.org": str(tmp_path),
        "/mnt/shared": str(tmp_path / "shared"),
        "MY_KEY": "a-key",
        "MY_SECRET": "a-secret",
    }

    def follow(commands: str, folder: Path) -> str:
        for name, value in here.items():
            commands = commands.replace(name, value)
        return run(f"set -e\n{commands}", folder)

    [name_it] = blocks(kind)
    [push] = blocks("Push")
    [clone_it, keys, pull] = blocks("Pull in another clone")
    [experiment, apply] = blocks("Share an experiment")
    [release, get] = blocks("Release a model")

    author, other = tmp_path / "author", tmp_path / "fedpipe"
    reproduced.copy(author)
    run("git clone -q --bare author fedpipe.git", tmp_path)
    run("git remote add origin ../fedpipe.git && git push -q -u origin main", author)
    follow(name_it, author)
    follow(push, author)
    assert "Cache and remote 'storage' are in sync." in run("dvc status --cloud", author)

    follow(clone_it, tmp_path)
    if kind == "An S3 bucket":
        assert "Unable to locate credentials" in run("dvc pull", other, fails=True)
        follow(keys, other)
    output = follow(pull, other)
    assert output.count("Data and pipelines are up to date.") == 2  # of `dvc status` and of `dvc repro`
    assert ran(output) == restored(output) == []
    for model in ("models/federated.safetensors", "models/baseline.safetensors"):
        assert (other / model).read_bytes() == (author / model).read_bytes()
    assert run("git status --porcelain", other) == ""
    for clone in (author, other):
        assert run("git grep -e a-secret $(git rev-list --all) -- .dvc", clone, fails=True) == ""

    assert set(ran(follow(experiment, author))) <= {"check", "federated", "local", "compare", "report"}
    run("dvc push --run-cache", author)
    run("dvc pull --run-cache", other)
    assert runs(other) == runs(author)
    assert run("dvc exp list --name-only origin", other) == "lower-rate\n"
    output = follow(apply, other)
    assert "Data and pipelines are up to date." in output
    assert ran(output) == restored(output) == []
    assert hashes(other) == hashes(author)
    assert (other / "models/federated.safetensors").read_bytes() == (
        author / "models/federated.safetensors"
    ).read_bytes()

    run("git checkout -q . && dvc checkout", author)
    follow(release, author)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", here["MY_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", here["MY_SECRET"])
    [untagged] = re.findall(r"`(dvc get .*?)`", GUIDE)
    for command in (get.strip(), f"{get.strip()} --rev v1.0.0", untagged):
        follow(f"{command} --out model", tmp_path)
        assert (tmp_path / "model").read_bytes() == (author / "models/federated.safetensors").read_bytes()
        (tmp_path / "model").unlink()


def test_a_clone_without_the_data_answers_the_commands_that_the_guide_lists(reproduced: Reproduced, tmp_path: Path):
    run(f"git clone -q {reproduced.folder} clone", tmp_path)
    clone = tmp_path / "clone"
    output = run("dvc repro --dry", clone, fails=True)
    assert "No such file or directory" in output
    assert "data/dataset/dataset.json" in output
    assert "failed to reproduce 'partition'" in output
    table = re.findall(r"^\| (`dvc .*?) \|", GUIDE, re.MULTILINE)
    commands = [command for row in table for command in re.findall(r"`(.*?)`", row)]
    assert len(commands) == 10
    outputs = {command: run(command, clone) for command in commands}
    assert ran(outputs["dvc repro --dry --allow-missing"]) == []
    assert ran(outputs["dvc repro --dry --force"]) == [
        "check", "download", "partition", "federated", "baseline", "local", "compare", "report",
    ]  # fmt: skip
    run("git checkout -q HEAD^ -- params.yaml", clone)
    assert ran(run("dvc repro --dry --allow-missing", clone)) == ["check"]
    assert [path.name for path in (clone / "models").iterdir()] == [".gitignore"]
