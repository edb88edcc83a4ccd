"""What all runners share: arguments, data, the training of one client, the count and the report.

It holds no engine: drawing clients, averaging and rounds are each runner's own.
"""

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

from benchmarks.workloads import WORKLOADS, Workload

MEAN, STD = 0.1307, 0.3081


def arguments(description: str) -> tuple[Workload, Path, int, int]:
    """Read WORKLOAD DATA.npz --rounds N --threads T; the first round is one of the N."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("data", type=Path, help="images, labels, assignment, test_images and test_labels in one .npz")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    return WORKLOADS[given.workload], given.data.resolve(), given.rounds, given.threads


def normalised(images: np.ndarray) -> Tensor:
    """Return uint8 images (n, 28, 28) as float32 (n, 1, 28, 28)."""
    return torch.from_numpy(images).unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


@functools.cache  # a worker process reads the file once, whatever the number of its clients
def load(path: Path, workload: Workload) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Return the (images, labels) of each client and those of the test set, normalised ahead of training."""
    with np.load(path) as arrays:
        images, labels, assignment = arrays["images"], arrays["labels"], arrays["assignment"]
        test = normalised(arrays["test_images"]), torch.from_numpy(arrays["test_labels"])
    if assignment.shape != (workload.clients, workload.per_client):
        needed = f"{workload.name} needs {workload.clients} clients x {workload.per_client}"
        raise SystemExit(f"{needed}, {path} has {assignment.shape}")
    return [(normalised(images[mine]), torch.from_numpy(labels[mine])) for mine in assignment], test


@dataclass
class Tally:
    """Count what was really trained, and note the age of the process at the end of each round."""

    examples: int = 0
    steps: int = 0
    ends: list[float] = field(default_factory=list)

    def add(self, examples: int, steps: int) -> None:
        """Count examples and steps that were trained."""
        self.examples += examples
        self.steps += steps

    def end_round(self) -> None:
        """Note that a round has ended."""
        self.ends.append(process_age())


def process_age() -> float:
    """Return the seconds since this process started, so that imports count too (Linux)."""
    # The 22nd field is the start in ticks since boot; the 2nd, the command, may itself hold spaces.
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def train_one_epoch(model: nn.Module, images: Tensor, labels: Tensor, workload: Workload) -> tuple[int, int]:
    """Train by plain SGD over shuffled batches; return the examples and the steps it took."""
    optimiser = torch.optim.SGD(model.parameters(), lr=workload.lr)
    model.train()
    examples = steps = 0
    for batch in torch.randperm(len(labels)).split(workload.batch_size):
        optimiser.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
        examples += len(batch)
        steps += 1
    return examples, steps


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of the images that the model takes for what they are."""
    model.eval()
    batches = zip(images.split(1000), labels.split(1000), strict=True)
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / len(labels)


def report(engine: str, workload: Workload, threads: int, tally: Tally, accuracy: float) -> None:
    """Print the one line of JSON that ends a runner's output."""
    rounds = len(tally.ends)
    line = {
        "engine": engine,
        "workload": workload.name,
        "threads": threads,
        "first_round_s": round(tally.ends[0], 3),
        "rounds_s": [round(end - start, 4) for start, end in zip(tally.ends, tally.ends[1:], strict=False)],
        "examples": tally.examples / rounds,
        "steps": tally.steps / rounds,
        "accuracy": accuracy,
    }
    print(json.dumps(line), flush=True)
