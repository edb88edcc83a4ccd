"""Clients' examples on disk: a file for each client, or, of a large population, for some clients together, and a
manifest of all. A client reads its own rows alone.

At most MAX_FILES files, because tools spend time on each: to hash and copy 100,000 small files takes DVC half a minute.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from fedpipe.errors import UserError
from fedpipe.files import replacing, write_table, write_tensors

MANIFEST = "manifest.csv"
MAX_FILES = 1000
SMALL = 2**18  # bytes: to read so many takes less time than to map them


@dataclass(frozen=True)
class Shard:
    """Where a client's examples lie: rows start..stop-1 of a file."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def write(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    assignment: Sequence[np.ndarray],
    classes: int,
    *,
    on_client: Callable[[], None] = lambda: None,
) -> None:
    """Writes the whole folder: a shard for each client of the assignment, and the manifest.

    Args:
        folder: replaced if it is there.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        assignment: for each client the indices of its examples.
        classes: how many labels there are.
        on_client: called for each client written, for progress.

    The manifest's columns: client, file, start (the client's first row in it), examples, label_0 ... label_9 (how many
    of each), sha256 of the client's images and labels.
    """
    clients = len(assignment)
    with replacing(folder) as new:
        new.mkdir()
        rows = []
        for members in _grouped(clients):
            indices = torch.from_numpy(np.concatenate([assignment[client] for client in members]))
            file = _name(members, clients)
            group_images, group_labels = images[indices], labels[indices]
            write_tensors(new / file, {"images": group_images, "labels": group_labels})
            start = 0
            for client in members:
                own = slice(start, start + len(assignment[client]))
                counts = torch.bincount(group_labels[own], minlength=classes).tolist()
                rows.append(
                    {"client": client, "file": file, "start": start, "examples": len(assignment[client])}
                    | {f"label_{label}": count for label, count in enumerate(counts)}
                    | {"sha256": _sha256(group_images[own], group_labels[own])}
                )
                start = own.stop
                on_client()
        write_table(new / MANIFEST, rows)


def read(shard: Shard) -> tuple[Tensor, Tensor]:
    """A client's images (n, 28, 28) uint8 and labels (n,) int64. Of a large file its own rows, mapped, not copied.

    Raises:
        UserError: the file is missing or damaged.
    """
    own = slice(shard.start, shard.stop)
    try:
        if shard.path.stat().st_size <= SMALL:
            tensors = load(shard.path.read_bytes())
            return tensors["images"][own], tensors["labels"][own]
        with safe_open(shard.path, framework="pt") as file:
            images, labels = (file.get_slice(name)[own] for name in ("images", "labels"))
    except FileNotFoundError:
        raise UserError(f"{shard.path}: not there; `dvc repro partition` makes it") from None
    except SafetensorError as error:
        raise UserError(f"{shard.path}: damaged ({error}); delete it and run `dvc repro`") from None
    return images, labels


@lru_cache(maxsize=4096)
def read_to(device: torch.device, shard: Shard) -> tuple[Tensor, Tensor]:
    """Likewise, in an accelerator's memory, where it stays for the rounds to come."""
    images, labels = read(shard)
    return images.to(device), labels.to(device)


def locate(folder: Path) -> list[Shard]:
    """Each client's shard, by the manifest: where it is and how large, all that the server knows of the data.

    Raises:
        UserError: there is no manifest.
    """
    folder = folder.resolve()  # workers may run in another folder
    try:
        with (folder / MANIFEST).open(newline="") as file:
            rows = csv.reader(file)
            columns = next(rows)
            name, start, examples = (columns.index(column) for column in ("file", "start", "examples"))
            return [Shard(folder / row[name], int(row[start]), int(row[start]) + int(row[examples])) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{folder / MANIFEST}: not there; `dvc repro partition` makes it") from None


def _grouped(clients: int) -> list[range]:
    """Clients 0..clients-1 in at most MAX_FILES runs of about equal length."""
    files = min(clients, MAX_FILES)
    ends = list(accumulate(clients // files + (file < clients % files) for file in range(files)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _name(members: range, clients: int) -> str:
    digits = max(5, len(str(clients - 1)))
    last = f"-{members[-1]:0{digits}d}" if len(members) > 1 else ""
    return f"client-{members[0]:0{digits}d}{last}.safetensors"


def _sha256(images: Tensor, labels: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
