"""Read and write files. Each is written whole or not at all: beside its target first, then renamed over it.

Tables are stored as CSV and results as JSON, which need none of this code to be opened; tensors are in
`fedpipe.system.tensors`, which takes a second to import.
"""

import csv
import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from safetensors import SafetensorError

from fedpipe.system.errors import UserError, naming

SUMS = "SHA256SUMS"  # a file with the hashes of others in its folder
FORGOTTEN = 24 * 3600  # seconds after which no living process can want its scratch folder back

Row = Mapping[str, Any]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the block a temporary path to write to, and move what it wrote to `path` when the block ends.

    If the block raises, what was at `path` before stays as it was.

    Args:
        path: a file or a folder. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, path.name) as scratch:
        new = scratch / path.name
        with naming(path):
            yield new
        if path.is_dir():
            path.rename(scratch / "old")  # a folder that is not empty cannot be renamed over
        new.replace(path)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give the block a new folder, which goes when the block ends, and delete those that killed processes left.

    Args:
        parent: where it is made.
        name: for what it is: the folder's own begins with a dot and this.
    """
    for old in parent.glob(f".{glob.escape(name)}.*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(old)
    with naming(parent):
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def reading(path: str | Path, stage: str = "", *, part_of: Path | None = None) -> Iterator[None]:
    """Say in one line what is wrong with a file that the block reads.

    Args:
        path: the file.
        stage: the stage that makes it anew; "" for whichever does.
        part_of: a folder that is of no use without the file. None if the file alone can be made anew.

    Raises:
        UserError: the file is missing, is no file, cannot be read, or is not what it should be.
    """
    command = f"`dvc repro {stage}`" if stage else "`dvc repro`"
    remedy = f"delete {part_of}, and the run begins anew" if part_of else f"delete it and run {command}"
    try:
        if not S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a client reads in a third of the time that pathlib takes
            raise UserError(f"{path}: no file; {remedy}")
        if not os.access(path, os.R_OK):  # of which safetensors says that it is not there
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {remedy if part_of else f'{command} makes it'}") from None
    except OSError as error:
        remedy = "make it readable" if isinstance(error, PermissionError) else remedy
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from None
    except (SafetensorError, ValueError, LookupError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged ({reason[:100]}); {remedy}") from None


def write_table(
    path: str | Path, rows: Iterable[Row], *, columns: Sequence[str] | None = None, **constants: str
) -> None:
    """Write rows as CSV with a header.

    Args:
        path: the file.
        rows: mappings from column to value, all with the same keys.
        columns: the keys. They are taken from the first row if not given, so that a table that may have no rows must
            give them.
        constants: columns with one value for the whole table, which come before the others.

    A cell of what is no finite number is empty, as of what is not known.
    """
    rows = [finite(constants | dict(row)) for row in rows]
    fields = list(rows[0]) if columns is None else [*constants, *columns]
    with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON; floats keep their last bit, and null stands for those that are not finite."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: the file is missing, or not JSON.
    """
    with reading(path):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def write_text(path: str | Path, text: str) -> None:
    """Write text."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Return the value with None in place of numbers that neither JSON nor programs that read CSV know."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_sums(folder: str | Path, *names: str) -> None:
    """Write the SHA-256 of files of a folder into it, in the form that `sha256sum --check` reads."""
    folder = Path(folder)
    write_text(folder / SUMS, "".join(f"{sha256_of_file(folder / name)}  {name}\n" for name in names))


def read_summed(path: str | Path, stage: str) -> str:
    """Return the text of a file, which is the one whose SHA-256 `write_sums` wrote into its folder.

    Args:
        path: the file.
        stage: that writes it and the sums.

    Raises:
        UserError: the file or the sums are missing, or are not what was written.
    """
    path = Path(path)
    with reading(path, stage):
        content = path.read_bytes()
    with reading(path.with_name(SUMS), stage):
        text = path.with_name(SUMS).read_text(encoding="utf-8")
        lines = [re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line) for line in text.splitlines()]
        sums = {line[2]: line[1] for line in lines if line}
        if not sums or len(sums) < len(lines):
            raise ValueError("no SHA-256 sums")
    with reading(path, stage):
        if hashlib.sha256(content).hexdigest() != sums.get(path.name):
            raise ValueError(f"it is not what {SUMS} says was written")
        return content.decode()


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
