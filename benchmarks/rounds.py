"""Rounds to a target accuracy in the experiments of McMahan et al. 2017, beside the paper's.

100 clients of 600 examples, 10 a round, B=10, plain SGD. The learning rate is that of a small grid with which the
target is reached first, as in the paper. Clients run by the default engine.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import MNIST
from fedpipe import console, datasets, federated, shards
from fedpipe.engines import Compute
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.partition import Partition
from fedpipe.strategies import ServerState

SEED = 1


@dataclass(frozen=True)
class Cell:
    """One of the paper's table 1, C = 0.1."""

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
    """A row a cell and learning rate."""
    compute = Compute(device="cpu")
    rows: list[dict[str, Any]] = []
    train = datasets.load(MNIST / "train.safetensors")
    examples = len(datasets.load(MNIST / "test.safetensors"))
    with tempfile.TemporaryDirectory(dir="data", prefix=".benchmark-") as scratch:
        for cell in CELLS:
            folder = Path(scratch) / cell.scheme
            assignment = Partition(clients=100, scheme=cell.scheme).assign(train.labels.numpy(), SEED)
            shards.write(folder, train.images, train.labels, assignment, 10)
            best = cell.patience
            for lr in cell.rates:
                settings = federated.Federated.model_validate(
                    {
                        "rounds": best, "clients_per_round": 10, "target_accuracy": cell.target,
                        "evaluate_clients": False,
                        "local": {"epochs": cell.epochs, "batch_size": 10, "optimizer": "sgd", "lr": lr},
                    }
                )  # fmt: skip
                model = ModelChoice.model_validate({"name": cell.model}).model
                work = federated.Work(settings, model, SEED, (MNIST / "test.safetensors").resolve(), arithmetic=compute)
                start = ServerState(0, initial_parameters(model, SEED))
                with compute.start(work) as map:
                    *_, (state, _) = federated.run(start, work, shards.locate(folder), examples, map)
                reached = state.accuracy >= cell.target
                best = min(best, state.round)
                rows.append(
                    {
                        "model": cell.model, "scheme": cell.scheme, "epochs": cell.epochs, "target": cell.target,
                        "lr": lr, "rounds": state.round if reached else None, "accuracy": state.accuracy,
                        "paper": cell.paper,
                    }
                )  # fmt: skip
                console.say(str(rows[-1]))
    return pd.DataFrame(rows).astype({"rounds": "Int64"})


def as_markdown(table: pd.DataFrame) -> str:
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
