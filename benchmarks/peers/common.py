"""What every runner of a peer shares: its arguments, the data, one client's training, the count and the report.
Holds no engine: drawing clients, averaging and rounds are each runner's own."""

import argparse
import functools
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.works import WORKS, Work

MEAN, STD = 0.1307, 0.3081


def arguments(description: str) -> tuple[Work, Path, int, int]:
    """Read WORK DATA.npz --rounds N --threads T; the first round is one of the N."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("data", type=Path, help="images, labels, assignment, test_images and test_labels in one .npz")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    return WORKS[given.work], given.data.resolve(), given.rounds, given.threads


def normalised(images: np.ndarray) -> Tensor:
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28)."""
    return torch.from_numpy(images).unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


@functools.cache  # a worker process reads the file once, whatever the number of its clients
def load(path: Path, work: Work) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Return the (images, labels) of each client and those of the test set, normalised ahead of training."""
    with np.load(path) as arrays:
        images, labels, assignment = arrays["images"], arrays["labels"], arrays["assignment"]
        test = normalised(arrays["test_images"]), torch.from_numpy(arrays["test_labels"])
    if assignment.shape != (work.clients, work.per_client):
        raise SystemExit(f"{work.name} needs {work.clients} clients x {work.per_client}, {path} has {assignment.shape}")
    return [(normalised(images[mine]), torch.from_numpy(labels[mine])) for mine in assignment], test


@dataclass
class Tally:
    """What was really trained, counted while training, and the age of the process at the end of each round."""

    examples: int = 0
    steps: int = 0
    ends: list[float] = field(default_factory=list)

    def add(self, examples: int, steps: int) -> None:
        self.examples += examples
        self.steps += steps

    def end_round(self) -> None:
        self.ends.append(process_age())


def process_age() -> float:
    """Seconds since this process started, so that imports count too (Linux)."""
    # The 22nd field is the start in ticks since boot; the 2nd, the command, may itself hold spaces.
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def train_one_epoch(model: nn.Module, images: Tensor, labels: Tensor, work: Work) -> tuple[int, int]:
    """Plain SGD over shuffled batches; return the examples and the steps it took."""
    optimiser = torch.optim.SGD(model.parameters(), lr=work.lr)
    model.train()
    examples = steps = 0
    for batch in torch.randperm(len(labels)).split(work.batch_size):
        optimiser.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
        examples += len(batch)
        steps += 1
    return examples, steps


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    batches = zip(images.split(1000), labels.split(1000), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / len(labels)


def report(engine: str, work: Work, threads: int, tally: Tally, accuracy: float) -> None:
    """Print the one line of JSON that ends a runner's output."""
    rounds = len(tally.ends)
    line = {
        "engine": engine,
        "work": work.name,
        "threads": threads,
        "first_round_s": round(tally.ends[0], 3),
        "rounds_s": [round(end - start, 4) for start, end in zip(tally.ends, tally.ends[1:], strict=False)],
        "examples": tally.examples / rounds,
        "steps": tally.steps / rounds,
        "accuracy": accuracy,
    }
    print(json.dumps(line), flush=True)
