"""What the clients hold: a table of the shards that the partition made, read from their manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table

from fedpipe.data.skew import skew
from fedpipe.data.store import MANIFEST
from fedpipe.results.comparison import read_table

SHOWN = 20  # clients, evenly spaced in a larger population
WIDE = 26  # blocks that are shown with a space after each, if there are no more
BLOCKS = "·▁▂▃▄▅▆▇█"  # none, then eighths
MEANINGS = {  # of the figures of skew
    "label_entropy": "label entropy in bits, the mean over clients; 0 if each has one label",
    "jensen_shannon": "Jensen-Shannon distance of a client's labels from all, the mean; 0 if they agree",
    "gini": "Gini coefficient of the clients' sizes; 0 if they are equal, near 1 if one has all",
}


@dataclass(frozen=True)
class Population:
    """Hold how many examples of which label each client has, without the examples."""

    examples: np.ndarray  # (clients,) that each trains on
    held_out: np.ndarray  # (clients,) that each tests on
    labels: np.ndarray  # (clients, classes) of those it trains on

    def as_json(self) -> dict[str, Any]:
        """Return totals, skew and every client as JSON has it."""
        return {
            "clients": len(self.examples),
            "examples": int(self.examples.sum()),
            "held_out": int(self.held_out.sum()),
            "labels": self.labels.sum(axis=0).tolist(),
            "skew": skew(self.labels),
            "each": [
                {"client": client, "examples": examples, "held_out": held_out, "labels": labels}
                for client, (examples, held_out, labels) in enumerate(
                    zip(self.examples.tolist(), self.held_out.tolist(), self.labels.tolist(), strict=True)
                )
            ],
        }

    def as_table(self, width: int, *, all: bool = False) -> Group:
        """Return a table with a row for each client and one for all of them together, and the figures of skew.

        Args:
            width: the columns of the terminal.
            all: whether a population of more than SHOWN clients is shown whole, and not SHOWN of them, evenly spaced.
        """
        clients, classes = self.labels.shape
        shown = np.arange(clients)
        if clients > SHOWN and not all:
            shown = np.linspace(0, clients - 1, SHOWN).round().astype(int)
        together = -(-classes // max(1, width - 42))  # labels to a block
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("client", "examples", "held out"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(f"labels\n{_ruler(classes, together)}", no_wrap=True, overflow="crop")
        for client in shown:
            table.add_row(
                f"{client}", f"{self.examples[client]:,}", f"{self.held_out[client]:,}",
                _bar(self.labels[client], together),
            )  # fmt: skip
        table.add_section()
        table.add_row(f"all {clients:,}", f"{self.examples.sum():,}", f"{self.held_out.sum():,}",
                      _bar(self.labels.sum(axis=0), together))  # fmt: skip
        figures = Table.grid(padding=(0, 2, 0, 0))
        for name, value in skew(self.labels).items():
            figures.add_row(f"{value:.2f}", MEANINGS[name])
        return Group(table, figures)


def read(folder: Path) -> Population:
    """Return what the clients hold whose shards are in a folder.

    Raises:
        UserError: the manifest is missing, or is not what the partition wrote.
    """
    manifest = read_table(folder / MANIFEST, "partition", "client", "examples", "held_out", "label_0")
    labels = [column for column in manifest if str(column).startswith("label_")]
    return Population(*(manifest[columns].to_numpy() for columns in ("examples", "held_out", labels)))


def _bar(counts: np.ndarray, together: int) -> str:
    """Return a block for each label, or so many together, whose height is its count beside the largest one."""
    sums = np.add.reduceat(counts, np.arange(0, len(counts), together))
    heights = np.ceil((len(BLOCKS) - 1) * sums / max(1, sums.max())).astype(int)
    return _spread((BLOCKS[height] for height in heights), len(sums))


def _ruler(classes: int, together: int) -> str:
    """Return the numbers of labels, each above its block where there is room."""
    blocks = -(-classes // together)
    if classes <= 10:
        return _spread((str(label) for label in range(classes)), blocks)
    step = 5 if blocks <= WIDE else 10
    width = step * (2 if blocks <= WIDE else 1)
    return "".join(f"{block * together:<{width}}" for block in range(0, blocks, step)).rstrip()


def _spread(blocks: Iterator[str], number: int) -> str:
    """Join the blocks, with a space after each where there are few."""
    return (" " if number <= WIDE else "").join(blocks)
