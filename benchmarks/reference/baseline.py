"""Train one model on all of MNIST without federation, as the reference's baseline does.

It is a typical program for torch: torchvision's data set with a transform for each image, a DataLoader, Adam.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import MNIST

from benchmarks.peers.models import build


def mnist(folder: Path, train: bool) -> Dataset:
    """Use the files in FOLDER/MNIST/raw, unpacked or not; torchvision fetches them only where they are missing."""
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    return MNIST(str(folder), train=train, transform=steps, download=True)


def train_one_epoch(model: nn.Module, loader: DataLoader, optimiser: torch.optim.Optimizer) -> None:
    model.train()
    for images, labels in loader:
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return accuracy and mean loss over the whole of the loader."""
    model.eval()
    correct = loss = count = 0
    for images, labels in loader:
        scores = model(images)
        loss += F.cross_entropy(scores, labels, reduction="sum").item()
        correct += (scores.argmax(1) == labels).sum().item()
        count += len(labels)
    return correct / count, loss / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--epoch", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--init_lr", type=float, default=5e-5)
    args = parser.parse_args()

    train_loader = DataLoader(mnist(args.data_dir, train=True), batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(mnist(args.data_dir, train=False), batch_size=args.batch_size)
    model = build("reference-cnn")
    optimiser = torch.optim.Adam(model.parameters(), lr=args.init_lr)
    for epoch in range(1, args.epoch + 1):
        started = time.perf_counter()
        train_one_epoch(model, train_loader, optimiser)
        accuracy, loss = evaluate(model, test_loader)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}/{args.epoch}  accuracy {accuracy:.4f}  loss {loss:.4f}  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
