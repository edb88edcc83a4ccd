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
    """Where a client's examples lie: in a file rows start..stop-1, and after them those it keeps for testing."""

    path: Path
    start: int
    stop: int
    held_out: int = 0

    @property
    def holdout(self) -> "Shard":
        """Those it keeps for testing."""
        return Shard(self.path, self.stop, self.stop + self.held_out)

    def __len__(self) -> int:
        return self.stop - self.start


def write(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    assignment: Sequence[np.ndarray],
    classes: int,
    *,
    held_out: Sequence[np.ndarray] | None = None,
    look: Callable[[Tensor, int], Tensor] = lambda images, client: images,
    on_client: Callable[[], None] = lambda: None,
) -> None:
    """Writes the whole folder: a shard for each client of the assignment, and the manifest.

    Args:
        folder: replaced if it is there.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        assignment: for each client the indices of the examples it trains on.
        classes: how many labels there are.
        held_out: for each client the indices of the examples it keeps for testing.
        look: look(images, client): a client's images as it sees them.
        on_client: called for each client written, for progress.

    The manifest's columns: client, file, start (the client's first row in it), examples (to train on), held_out (the
    rows after these), label_0, label_1, ... (how many of each it trains on), sha256 of all its images and labels.
    """
    clients = len(assignment)
    kept = held_out if held_out is not None else [np.empty(0, int)] * clients
    with replacing(folder) as new:
        new.mkdir()
        rows = []
        for members in _grouped(clients):
            file, start = _name(members, clients), 0
            group: list[tuple[Tensor, Tensor]] = []
            for client in members:
                indices = torch.from_numpy(np.concatenate([assignment[client], kept[client]]))
                own_images, own_labels = look(images[indices], client), labels[indices]
                examples = len(assignment[client])
                counts = torch.bincount(own_labels[:examples], minlength=classes).tolist()
                rows.append(
                    {"client": client, "file": file, "start": start}
                    | {"examples": examples, "held_out": len(kept[client])}
                    | {f"label_{label}": count for label, count in enumerate(counts)}
                    | {"sha256": _sha256(own_images, own_labels)}
                )
                group.append((own_images, own_labels))
                start += len(indices)
                on_client()
            group_images, group_labels = (torch.cat(part) for part in zip(*group, strict=True))
            write_tensors(new / file, {"images": group_images, "labels": group_labels})
        write_table(new / MANIFEST, rows)


def label_counts(assignment: Sequence[np.ndarray], labels: np.ndarray, classes: int) -> np.ndarray:
    """(clients, classes): how many examples of each label each client has."""
    return np.stack([np.bincount(labels[indices], minlength=classes) for indices in assignment])


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
            name, start, examples, held_out = map(columns.index, ("file", "start", "examples", "held_out"))
            return [
                Shard(folder / row[name], int(row[start]), int(row[start]) + int(row[examples]), int(row[held_out]))
                for row in rows
            ]
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
