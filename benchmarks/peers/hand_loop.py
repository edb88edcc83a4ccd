"""Federated averaging by hand: the loop that a competent user of torch writes, in one process with one model.

It is the yardstick without a framework: it draws, trains and averages, and does nothing else.
"""

import random

import torch
from torch import Tensor, nn

from benchmarks.peers.common import Tally, accuracy, arguments, load, report, train_one_epoch
from benchmarks.peers.models import build
from benchmarks.workloads import Workload


def federated_round(
    model: nn.Module,
    weights: dict[str, Tensor],
    clients: list[tuple[Tensor, Tensor]],
    workload: Workload,
    tally: Tally,
) -> dict[str, Tensor]:
    """Return the mean of the cohort's weights, each client's in proportion to its examples."""
    cohort = random.sample(clients, workload.cohort)
    total = sum(len(labels) for _, labels in cohort)
    mean = {name: torch.zeros_like(value) for name, value in weights.items()}
    for images, labels in cohort:
        model.load_state_dict(weights)
        tally.add(*train_one_epoch(model, images, labels, workload))
        for name, value in model.state_dict().items():
            mean[name].add_(value, alpha=len(labels) / total)
    return mean


def main() -> None:
    workload, data, rounds, threads = arguments(__doc__)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    random.seed(0)
    clients, test = load(data, workload)
    model = build(workload.model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tally = Tally()
    for _ in range(rounds):
        weights = federated_round(model, weights, clients, workload, tally)
        tally.end_round()
    model.load_state_dict(weights)
    report("hand_loop", workload, threads, tally, accuracy(model, *test))


if __name__ == "__main__":
    main()
