"""Train by federated averaging, as the reference's federated program does, but with a correct average.

It is the baseline's typical program with clients: each round a few of them train a copy of the global model.
"""

import argparse
import copy
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, random_split

from benchmarks.peers.models import build
from benchmarks.reference.baseline import evaluate, mnist, train_one_epoch


def train_client(model: nn.Module, loader: DataLoader, epochs: int, lr: float) -> dict[str, Tensor]:
    """Return the weights of a copy of the global model after the client's epochs."""
    local = copy.deepcopy(model)
    optimiser = torch.optim.Adam(local.parameters(), lr=lr)
    for _ in range(epochs):
        train_one_epoch(local, loader, optimiser)
    return local.state_dict()


def mean(states: list[dict[str, Tensor]], sizes: list[int]) -> dict[str, Tensor]:
    """Average the clients that trained, each in proportion to its examples."""
    total = sum(sizes)
    return {
        name: sum(state[name] * (size / total) for state, size in zip(states, sizes, strict=True)) for name in states[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--global_epoch", type=int, default=5)
    parser.add_argument("--local_epoch", type=int, default=5)
    parser.add_argument("--init_lr", type=float, default=5e-5)
    parser.add_argument("--num_clients", type=int, default=8)
    parser.add_argument("--num_select_clients", type=int, default=4)
    args = parser.parse_args()

    parts = random_split(mnist(args.data_dir, train=True), [1 / args.num_clients] * args.num_clients)
    loaders = [DataLoader(part, batch_size=args.batch_size, shuffle=True) for part in parts]
    test_loader = DataLoader(mnist(args.data_dir, train=False), batch_size=args.batch_size)
    model = build("reference-cnn")
    for round in range(1, args.global_epoch + 1):
        started = time.perf_counter()
        cohort = random.sample(range(args.num_clients), args.num_select_clients)
        states = [train_client(model, loaders[client], args.local_epoch, args.init_lr) for client in cohort]
        model.load_state_dict(mean(states, [len(parts[client]) for client in cohort]))
        accuracy, loss = evaluate(model, test_loader)
        seconds = time.perf_counter() - started
        result = f"accuracy {accuracy:.4f}  loss {loss:.4f}  {seconds:.1f} s"
        print(f"round {round}/{args.global_epoch}  {result}", flush=True)


if __name__ == "__main__":
    main()
