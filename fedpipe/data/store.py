"""Clients' examples on disk: one file for each client, or in a large population one file for several, and a manifest.

At most MAX_FILES files, because tools spend time on each: to hash and copy 100,000 small files takes DVC half a minute.
"""

import csv
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from fedpipe.system.files import read_summed, reading, replacing, write_sums, write_table
from fedpipe.system.tensors import sha256_of_tensors, write_tensors

MANIFEST = "manifest.csv"
MAX_FILES = 1000
SMALL = 2**18  # bytes: reading a file of this size takes less time than mapping it
ON_DEVICE = 4096  # clients whose examples stay in an accelerator's memory

CPU = torch.device("cpu")


class ClientStore:
    """The clients' examples in a folder that `write` wrote. A client finds its own by its number."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest, and no example.

        Raises:
            UserError: the manifest is missing, or is not what was written.
        """
        self._files: list[Path] = []
        rows: list[tuple[int, int, int, int]] = []  # file, start, examples, held out
        self._sha256: list[str] = []
        text = read_summed(folder / MANIFEST, "partition")
        with reading(folder / MANIFEST, "partition"):
            lines = csv.reader(text.splitlines())
            columns = ("file", "start", "examples", "held_out", "sha256")
            name, start, examples, held_out, sha256 = map(next(lines).index, columns)
            number: dict[str, int] = {}
            for line in lines:
                if Path(line[name]).name != line[name]:
                    raise ValueError(f"{line[name]} is not a file of this folder")
                place = number.setdefault(line[name], len(number))
                rows.append((place, int(line[start]), int(line[examples]), int(line[held_out])))
                self._sha256.append(line[sha256])
        self._files = [folder / name for name in number]
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self._examples_on = lru_cache(maxsize=ON_DEVICE)(self._copied_to)

    @property
    def sizes(self) -> np.ndarray:
        """(clients,) the number of examples that each client trains on, n_k."""
        return self._rows[:, 2]

    def held_out_size(self, client: int) -> int:
        """Return how many of its examples a client does not train on but tests on."""
        return int(self._rows[client, 3])

    def examples(self, client: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
        """Return the images (n, height, width, channels) uint8 and labels (n,) int64 that a client trains on.

        On an accelerator they stay in its memory for the rounds to come. On the CPU, those of a large file are mapped.

        Raises:
            UserError: the file is missing or damaged.
        """
        if device.type != "cpu":
            return self._examples_on(client, device)
        images, labels = self._read(client)
        examples = int(self._rows[client, 2])
        return images[:examples], labels[:examples]

    def held_out(self, client: int) -> tuple[Tensor, Tensor]:
        """Return the images and labels that a client tests on, likewise."""
        images, labels = self._read(client)
        examples = int(self._rows[client, 2])
        return images[examples:], labels[examples:]

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, client: int) -> tuple[Tensor, Tensor]:
        """Return all images and labels of a client, which are what was written for it."""
        place, start, examples, held_out = self._rows[client].tolist()
        path, rows = self._files[place], slice(start, start + examples + held_out)
        with reading(path, "partition"):
            if path.stat().st_size <= SMALL:
                tensors = load(path.read_bytes())
                images, labels = tensors["images"][rows], tensors["labels"][rows]
            else:
                with safe_open(path, framework="pt") as file:
                    images, labels = (file.get_slice(name)[rows] for name in ("images", "labels"))
            if sha256_of_tensors(images, labels) != self._sha256[client]:
                raise ValueError(f"client {client}'s examples are not what was written")
        return images, labels

    def _copied_to(self, client: int, device: torch.device) -> tuple[Tensor, Tensor]:
        images, labels = self.examples(client)
        return images.to(device), labels.to(device)


def open_store(folder: Path) -> ClientStore:
    """Return the store in a folder; its manifest is read once in a process, unless it changes.

    Raises:
        UserError: as `ClientStore`.
    """
    try:
        changed = (folder / MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        changed = 0  # the constructor says so
    return _open(folder, changed)


@lru_cache(maxsize=2)
def _open(folder: Path, changed: int) -> ClientStore:
    return ClientStore(folder)


def write(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    assignment: Sequence[np.ndarray],
    classes: int,
    *,
    held_out: Sequence[np.ndarray] | None = None,
    appearance: Callable[[Tensor, int], Tensor] = lambda images, client: images,
    on_client: Callable[[], None] = lambda: None,
) -> None:
    """Write the whole folder: the examples of each client of the assignment, and the manifest.

    Args:
        folder: replaced if it is there.
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        assignment: for each client the indices of the examples it trains on.
        classes: how many labels there are.
        held_out: for each client the indices of the examples it tests on.
        appearance: appearance(images, client) returns a client's images as this client sees them.
        on_client: called for each client written, for progress.

    The manifest's columns: client, file, start (the client's first row in it), examples (that it trains on), held_out
    (the rows after these), label_0, label_1, ... (how many of each it trains on), sha256 of all its images and labels.
    """
    clients = len(assignment)
    tested = held_out if held_out is not None else [np.empty(0, int)] * clients
    with replacing(folder) as new:
        new.mkdir()
        rows = []
        for members in _grouped(clients):
            file, start = _name(members, clients), 0
            group: list[tuple[Tensor, Tensor]] = []
            for client in members:
                indices = torch.from_numpy(np.concatenate([assignment[client], tested[client]]))
                client_images, client_labels = appearance(images[indices], client), labels[indices]
                examples = len(assignment[client])
                counts = torch.bincount(client_labels[:examples], minlength=classes).tolist()
                rows.append(
                    {"client": client, "file": file, "start": start}
                    | {"examples": examples, "held_out": len(tested[client])}
                    | {f"label_{label}": count for label, count in enumerate(counts)}
                    | {"sha256": sha256_of_tensors(client_images, client_labels)}
                )
                group.append((client_images, client_labels))
                start += len(indices)
                on_client()
            group_images, group_labels = (torch.cat(part) for part in zip(*group, strict=True))
            write_tensors(new / file, {"images": group_images, "labels": group_labels})
        write_table(new / MANIFEST, rows)
        write_sums(new, MANIFEST)


def label_counts(assignment: Sequence[np.ndarray], labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (clients, classes): how many examples of each label each client has."""
    return np.stack([np.bincount(labels[indices], minlength=classes) for indices in assignment])


def _grouped(clients: int) -> list[range]:
    """Divide clients 0..clients-1 into at most MAX_FILES runs of about equal length."""
    files = min(clients, MAX_FILES)
    ends = list(accumulate(clients // files + (file < clients % files) for file in range(files)))
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _name(members: range, clients: int) -> str:
    digits = max(5, len(str(clients - 1)))
    last = f"-{members[-1]:0{digits}d}" if len(members) > 1 else ""
    return f"client-{members[0]:0{digits}d}{last}.safetensors"
