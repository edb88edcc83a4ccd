"""What a result was made on, when, and of which commit.

Float results have the same bits on machines of one CPU type with one version of torch. It is written down in a file of
its own, which git keeps and no training depends on, so that equal results of other machines differ in nothing else but
the page that tells it.
"""

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpipe.system.errors import UserError
from fedpipe.system.files import write_json
from fedpipe.system.programs import output_of

if TYPE_CHECKING:
    import torch

FILE = Path("reports/provenance.json")
RESULTS = "reports", "data", "models", "studies", "dvc.lock"  # what runs write, so that it is no change of what ran
MOST_CHANGED = 10  # files that are named
MOST_EXPERIMENTS = 100  # that are looked through


def write_provenance(stage: str, device: "torch.device", sums: Path, seconds: float | None = None) -> None:
    """Write down what a stage's results were made on, beside what is known of other stages.

    Where a machine of the same kind has made the same results before, what is known stays as it is: it tells of the
    first time, and running a stage again changes nothing.

    Args:
        stage: that trained.
        device: that it trained on.
        sums: the file with the hashes of its results, which stands for them.
        seconds: that the training took; None if it was not measured.
    """
    known = _content(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    made = {**provenance(device), "results": identity(sums.read_bytes())}
    before = known.get(stage, {})
    if any(before.get(key) != value for key, value in made.items()):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        took = None if seconds is None else round(seconds, 1)
        made |= {"python": platform.python_version(), **_commit(), "made": now, "seconds": took}
        write_json(FILE, dict(sorted({**known, stage: made}.items())))


def recall(sums: Mapping[str, Path]) -> None:
    """Write down anew what is known of results that came back from DVC's cache, for which nothing ran.

    The last commit may know them, or an experiment that DVC saved. Where neither does, what is there stays, and its
    ``results`` tell that it is of others.

    Args:
        sums: the files with the hashes of results, by stage.
    """
    known = _content(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    there = {stage: identity(path.read_bytes()) for stage, path in sums.items()}
    others = {stage for stage, results in there.items() if known.get(stage, {}).get("results") != results}
    found = dict(known)
    for revision in _revisions() if others else ():
        with suppress(UserError):
            told = _content(output_of(["git"], "show", f"{revision}:./{FILE.as_posix()}"))
            for stage in list(others):
                if told.get(stage, {}).get("results") == there[stage]:
                    found[stage] = told[stage]
                    others.remove(stage)
        if not others:
            break
    if found != known:
        write_json(FILE, dict(sorted(found.items())))


def _content(text: str) -> dict[str, dict[str, Any]]:
    """Return what a text knows of stages; nothing if it is not what is written here."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return {stage: made for stage, made in value.items() if isinstance(made, dict)} if isinstance(value, dict) else {}


def _revisions() -> list[str]:
    """Return the last commit and the experiments that DVC saved, the newest first."""
    saved = ["for-each-ref", "--sort=-committerdate", f"--count={MOST_EXPERIMENTS}", "--format=%(objectname)"]
    try:
        return ["HEAD", *output_of(["git"], *saved, "refs/exps").split()]
    except UserError:  # no git
        return []


def identity(sums: bytes) -> str:
    """Return the MD5 of a file with hashes of results, as dvc.lock has it of the same file."""
    return hashlib.md5(sums, usedforsecurity=False).hexdigest()


def _commit() -> dict[str, Any]:
    """Return the commit of the current folder, and the files that differ from it and are no results."""
    try:
        commit = output_of(["git"], "rev-parse", "HEAD").strip()
        status = output_of(["git"], "status", "--porcelain", "-z", "--", ".", *(f":!{name}" for name in RESULTS))
    except UserError:  # no git, no repository, or no commit in it
        return {"commit": None, "changed": None}
    changed = sorted(line[3:] for line in status.split("\0") if line[2:3] == " ")
    return {"commit": commit, "changed": changed[:MOST_CHANGED]}


def provenance(device: "torch.device") -> dict[str, str]:
    """Return the CPU type, the version of torch, and the device that trained, as provenance.json names them.

    Returns:
        The values of ``cpu``, ``torch`` and ``device``.
    """
    import torch  # which takes a second, and is there where something trained

    return {
        "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def code() -> str:
    """Return the SHA-256 of the library's source files, in hexadecimal digits."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _cpu() -> str:
    """Return the name of the CPU with family and model: CPUs of one name are sold with different instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:  # not x86
        return platform.machine()
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
