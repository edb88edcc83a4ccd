"""Back from an experiment to what is committed: parameters and results by git, data and models by DVC."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from fedpipe.config.file import flat
from fedpipe.system.errors import UserError
from fedpipe.system.programs import dvc_in, output_of

RESET = ("params.yaml", "dvc.lock", "reports", "data", "models")  # of these, whatever the last commit holds


@dataclass(frozen=True)
class Changes:
    """Tell how this folder differs from the last commit."""

    commit: str  # its abbreviated hash and its subject
    parameters: list[str]  # a line for each
    files: list[str]  # that the commit holds
    outputs: list[str]  # of DVC's stages, in which the folder has what dvc.lock does not record
    missing: list[str]  # of DVC's stages
    unknown: str  # why DVC could not tell the outputs; "" if it could
    experiment: str | None  # that has the same params.yaml and dvc.lock

    @property
    def lost(self) -> list[str]:
        """What is no longer in this folder after `reset`."""
        return [*self.files, *self.outputs]


def changes() -> Changes:
    """Compare the current folder, which must be the project's, with the last commit.

    Raises:
        UserError: it is not the folder of a project that git and DVC know, or DVC runs something in it.
    """
    if not Path("dvc.yaml").is_file():
        raise UserError("dvc.yaml: not there; run from the folder that holds it")
    _require_rest()
    commit = _git("log", "-1", "--format=%h, %s").strip()
    committed = set(filter(None, _git("ls-tree", "-rz", "--name-only", "HEAD", "--", *RESET).split("\0")))
    differing = _git("diff", "-z", "--relative", "--name-only", "--no-renames", "HEAD", "--", *RESET)
    files = [name for name in differing.split("\0") if name in committed]
    unknown, status = "", {}
    try:
        status = _status("--granular")
    except UserError as error:  # such as of a params.yaml that is no YAML; it comes back nevertheless
        if not files:
            raise
        _dvc("root")  # or there is no repository
        unknown = str(error)
    outputs = {name for kind in ("modified", "added") for name in status.get(kind, []) if not name.endswith("/")}
    return Changes(
        commit=commit,
        parameters=list(_parameters()) if "params.yaml" in files else [],
        files=files,
        outputs=sorted(outputs),
        missing=sorted(name for name in status.get("deleted", []) if not name.endswith("/")),
        unknown=unknown,
        experiment=_experiment(),
    )


def reset(found: Changes) -> list[str]:
    """Bring the committed parameters, results, data and models back.

    Args:
        found: what `changes` returned. Files that the commit does not hold stay, except in folders that DVC restores.

    Returns:
        The outputs of DVC's stages that are not in its cache, and that are therefore not restored.
    """
    if found.files:
        _git(
            "restore", "--source=HEAD", "--staged", "--worktree", "--pathspec-from-file=-", "--pathspec-file-nul",
            given="\0".join(found.files),
        )  # fmt: skip
    _dvc("checkout", "--force", "--allow-missing", "--quiet")
    status = _status()
    return sorted({name.rstrip("/") for kind in ("deleted", "modified") for name in status.get(kind, [])})


def _git(*arguments: str, given: str = "") -> str:
    return output_of(["git"], "--literal-pathspecs", *arguments, given=given)


def _dvc(*arguments: str) -> str:
    return output_of([sys.executable, "-m", "dvc"], *arguments)


def _status(*options: str) -> dict[str, list[str]]:
    """Return the outputs in this folder that are not as dvc.lock records them, by what happened to them."""
    return json.loads(_dvc("data", "status", *options, "--json")).get("uncommitted", {})


def _require_rest() -> None:
    """Raise UserError if DVC runs a stage in this folder."""
    for command, process in dvc_in(Path()):
        raise UserError(f"`{command}` runs in this folder (process {process}); wait for its end, or stop it")


def _experiment() -> str | None:
    """Return the name of the latest experiment that DVC saved with this params.yaml and dvc.lock."""
    saved = _git("for-each-ref", "--sort=-committerdate", "--count=100", "--format=%(refname)", "refs/exps")
    for name in saved.split():
        if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/.+", name):
            differing = _git("diff", "--name-only", name, "--", "params.yaml", "dvc.lock")
            if not differing:
                return name.rpartition("/")[2]
    return None


def _parameters() -> Iterator[str]:
    """Yield a line for each parameter that has another value than the committed one."""
    try:
        yaml = YAML(typ="safe", pure=True)
        here = flat(yaml.load(Path("params.yaml").read_text(encoding="utf-8")))
        there = flat(yaml.load(_git("show", "HEAD:./params.yaml")))
    except (OSError, ValueError, YAMLError):  # which is no reason not to bring the committed file back
        return
    for path in [*there, *(path for path in here if path not in there)]:
        a, b = (json.dumps(side[path], default=str) if path in side else "nothing" for side in (here, there))
        if a != b:
            yield f"{path}: {a}, committed: {b}"
