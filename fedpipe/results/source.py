"""Where the files of a run are read: the project's folder, or a commit, a branch or an experiment of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedpipe.system.errors import UserError
from fedpipe.system.files import reading
from fedpipe.system.programs import output_of


class Source(Protocol):
    """Reads files by their path in the project."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def bytes_of(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        ...


class Workspace:
    """The project's folder, as it is."""

    name = "workspace"

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder

    def bytes_of(self, path: str) -> bytes | None:
        file = self.folder / path
        if not file.exists():
            return None
        with reading(file):
            return file.read_bytes()


class Revision:
    """What git holds: a commit, a branch, a tag, or an experiment that DVC saved.

    Args:
        name: as git or `dvc exp show` names it.

    Raises:
        UserError: there is none of this name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.commit = _commit_of(name)

    def bytes_of(self, path: str) -> bytes | None:
        if path not in _files_of(self.commit):
            return None
        return output_of(["git"], "show", f"{self.commit}:./{path}").encode()


def source_of(name: str) -> Source:
    """Return the workspace if it is named so, else the revision.

    Raises:
        UserError: as `Revision`.
    """
    return Workspace() if name == Workspace.name else Revision(name)


def text_of(source: Source, path: str) -> str:
    """Return the text of a file.

    Raises:
        UserError: there is none.
    """
    content = source.bytes_of(path)
    if content is None:
        where = "" if source.name == Workspace.name else f" at {source.name}"
        raise UserError(f"{path}: not there{where}; `dvc repro` makes it, and git must hold it")
    return content.decode()


def json_of(source: Source, path: str, default: Any = None) -> Any:
    """Return the value in a JSON file; the default if there is no such file.

    Raises:
        UserError: the file is no JSON.
    """
    content = source.bytes_of(path)
    if content is None:
        return default
    with _parsing(source, path):
        return json.loads(content)


def table_of(source: Source, path: str, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return a table.

    Args:
        source: where it is read.
        path: of the CSV file.
        text: columns that hold text, even if it looks like numbers; empty cells are "" in them.

    Raises:
        UserError: there is no such file, or it is no table.
    """
    content = text_of(source, path)
    with _parsing(source, path):
        table = pd.read_csv(StringIO(content), dtype=dict.fromkeys(text, str))
    for column in text:
        if column in table:
            table[column] = table[column].fillna("")
    return table


@contextmanager
def _parsing(source: Source, path: str) -> Iterator[None]:
    """Say in one line what is wrong with a file of a source that the block parses."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        where = path if source.name == Workspace.name else f"{path} at {source.name}"
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{where}: not what a run writes ({reason}); `dvc repro` makes it anew") from None


def _commit_of(name: str) -> str:
    """Return the commit of a revision that git or DVC names."""
    try:
        return output_of(["git"], "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except UserError:
        form = "--format=%(objectname) %(refname)"
        saved = output_of(["git"], "for-each-ref", "--sort=-committerdate", form, "refs/exps")
        for line in saved.splitlines():
            commit, _, reference = line.partition(" ")
            if reference.rpartition("/")[2] == name and reference.startswith("refs/exps/"):
                return commit
    raise UserError(
        f"{name}: neither git nor DVC knows it; a commit, a branch, a tag, or an experiment of `dvc exp show` would do"
    )


@cache
def _files_of(commit: str) -> frozenset[str]:
    """Return the paths of all files of a commit, from the current folder on."""
    return frozenset(output_of(["git"], "ls-tree", "-r", "-z", "--name-only", commit).split("\0"))
