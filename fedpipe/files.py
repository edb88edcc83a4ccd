"""Files written whole or not at all: to a temporary name beside the target, then renamed over it.

Tensors are safetensors, tables CSV, results JSON: anything that pandas or a person can open.
"""

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpipe.errors import UserError

Row = Mapping[str, Any]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` (a file or a folder) only at a clean exit."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = scratch / path.name
        yield new
        if path.is_dir():
            path.rename(scratch / "old")  # a folder that is not empty cannot be renamed over
        new.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as new:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, new)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Raises UserError if the file is missing or not a whole safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `dvc repro` makes it") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `dvc repro`") from None


def write_table(
    path: str | Path, rows: Iterable[Row], *, columns: Sequence[str] | None = None, **constants: str
) -> None:
    """Writes rows as CSV with a header; constants stand first in every row.

    All rows have the keys of the first, or these columns, which may then be a table without rows.
    """
    rows = [constants | dict(row) for row in rows]
    fields = list(rows[0]) if columns is None else [*constants, *columns]
    with replacing(path) as new, new.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises UserError if the file is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `dvc repro` makes it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run `dvc repro`") from None


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as new:
        new.write_text(text)


def sha256_of_file(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tensor(tensor: Tensor) -> str:
    """Of the values' bytes in row-major order."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
