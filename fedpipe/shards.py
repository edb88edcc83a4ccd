"""One client's examples on disk: a file a client, and a manifest of all. A client reads its own file alone."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedpipe.errors import UserError
from fedpipe.files import read_tensors, replacing, sha256_of_file, write_table, write_tensors

MANIFEST = "manifest.csv"


def path_of(folder: Path, client: int) -> Path:
    return folder / f"client-{client:05d}.safetensors"


def write(folder: Path, images: Tensor, labels: Tensor, assignment: Sequence[np.ndarray], classes: int) -> None:
    """Writes the whole folder: a shard for each client of the assignment, and the manifest.

    Args:
        folder: replaced if it is there.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        assignment: for each client the indices of its examples.
        classes: how many labels there are.

    The manifest's columns: client, examples, label_0 ... label_9 (how many of each), sha256 of the client's file.
    """
    rows = []
    with replacing(folder) as new:
        new.mkdir()
        for client, indices in enumerate(assignment):
            chosen = torch.from_numpy(indices)
            shard = path_of(new, client)
            write_tensors(shard, {"images": images[chosen], "labels": labels[chosen]})
            counts = torch.bincount(labels[chosen], minlength=classes).tolist()
            rows.append(
                {"client": client, "examples": len(indices)}
                | {f"label_{label}": count for label, count in enumerate(counts)}
                | {"sha256": sha256_of_file(shard)}
            )
        write_table(new / MANIFEST, rows)


def read(path: Path) -> tuple[Tensor, Tensor]:
    """A client's images (n, 28, 28) uint8 and labels (n,) int64."""
    tensors = read_tensors(path)
    return tensors["images"], tensors["labels"]


def read_sizes(folder: Path) -> list[int]:
    """How many examples each client holds, by the manifest: all that the server knows of the data."""
    try:
        with (folder / MANIFEST).open(newline="") as file:
            return [int(row["examples"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"{folder / MANIFEST}: not there; `dvc repro partition` makes it") from None
