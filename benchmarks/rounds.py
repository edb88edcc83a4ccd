"""Rounds to a target accuracy in the experiments of McMahan et al. 2017, beside the paper's.

100 clients of 600 examples, 10 a round, B=10, plain SGD. The learning rate is that of a small grid with which the
target is reached first, as in the paper. Clients run by the default engine.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import load_mnist, write
from benchmarks.fedpipe_runner import data_in
from fedpipe.data.partition.settings import Partition
from fedpipe.engines import Compute
from fedpipe.experiment import Experiment, FederatedData, run
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.settings import Federated
from fedpipe.models.settings import ModelChoice
from fedpipe.system import console

SEED = 1


@dataclass(frozen=True)
class Cell:
    """A cell of the paper's table 1, C = 0.1."""

    model: str
    epochs: int
    scheme: str
    target: float
    paper: int  # rounds
    rates: tuple[float, ...]
    patience: int  # rounds after which another learning rate has lost


CELLS = (
    Cell("2nn", 1, "iid", 0.97, 87, (0.05, 0.1, 0.2), 200),
    Cell("2nn", 1, "shards", 0.97, 664, (0.02, 0.05, 0.1), 900),
    Cell("paper-cnn", 5, "iid", 0.99, 20, (0.05, 0.1), 40),
)


def measure() -> pd.DataFrame:
    """Return a row for each cell and learning rate.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    rows: list[dict[str, Any]] = []
    train, test = load_mnist()
    with tempfile.TemporaryDirectory(dir="data", prefix=".benchmark-") as scratch:
        for cell in CELLS:
            folder = Path(scratch) / cell.scheme
            write(folder, train, test, Partition(clients=100, scheme=cell.scheme).assign(train.labels.numpy(), SEED))
            limit = cell.patience
            for lr in cell.rates:
                rounds, accuracy = _rounds(cell, lr, limit, data_in(folder))
                rows.append(
                    {
                        "model": cell.model, "scheme": cell.scheme, "epochs": cell.epochs, "target": cell.target,
                        "lr": lr, "rounds": rounds if accuracy >= cell.target else None, "accuracy": accuracy,
                        "paper": cell.paper,
                    }
                )  # fmt: skip
                console.say(str(rows[-1]))
                limit = min(limit, rounds)
    return pd.DataFrame(rows).astype({"rounds": "Int64"})


def _rounds(cell: Cell, lr: float, limit: int, data: FederatedData) -> tuple[int, float]:
    """Train until the target is reached, for at most `limit` rounds; return the rounds and the last test accuracy."""
    settings = Federated(
        rounds=limit,
        clients_per_round=10,
        target_accuracy=cell.target,
        evaluate_clients=False,
        local=LocalTraining(epochs=cell.epochs, batch_size=10, optimizer="sgd", lr=lr),
    )
    model, compute = ModelChoice(name=cell.model), Compute(device="cpu")
    result = run(Experiment(seed=SEED, model=model, federated=settings, compute=compute), data)
    return len(result.history), result.test.accuracy


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README."""
    lines = [
        "100 clients of 600 examples, 10 a round, B=10; the best of the learning rates tried.",
        "",
        "| model | partition | local epochs | target | rounds | the paper's | learning rate | tried |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for (model, scheme), cell in table.groupby(["model", "scheme"], sort=False):
        reached = cell.dropna(subset="rounds")
        best = None if reached.empty else reached.loc[reached["rounds"].idxmin()]
        first = cell.iloc[0]
        rounds, lr = ("not reached", "") if best is None else (best["rounds"], f"{best['lr']:g}")
        tried = ", ".join(f"{lr:g}" for lr in cell["lr"])
        lines.append(
            f"| {model} | {scheme} | {first['epochs']} | {first['target']:.0%} | {rounds} | {first['paper']} | {lr} "
            f"| {tried} |"
        )
    return "\n".join(lines) + "\n"
