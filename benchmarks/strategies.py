"""Every strategy on every partition: test accuracy after the same rounds, learning rates tuned for each cell.

A cell's settings are those of a small grid that are best on 10,000 training images which training does not see; then it
runs with other seeds on the whole training set, and the test set judges. Each run is one process on one thread.
"""

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.data import MNIST
from fedpipe import console, datasets, federated, shards
from fedpipe.files import write_tensors
from fedpipe.machine import cores, train_on_threads
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.partition import Partition
from fedpipe.strategies import ServerState

CLIENTS, COHORT, EPOCHS, BATCH, ROUNDS = 50, 10, 2, 20, 40
EVALUATE_EVERY, LAST = 4, 3  # the accuracy is the mean of the last so many evaluations
TUNING_SEED, SEEDS = 0, (1, 2, 3)
VALIDATION = 10_000  # training images held back while tuning

PARTITIONS: dict[str, dict[str, Any]] = {
    "iid": {"scheme": "iid"},
    "dirichlet 0.5": {"scheme": "dirichlet", "dirichlet": {"alpha": 0.5}},
    "dirichlet 0.1": {"scheme": "dirichlet", "dirichlet": {"alpha": 0.1}},
    "shards 2": {"scheme": "shards", "shards": {"per_client": 2}},
}
RATES = (0.03, 0.1, 0.3)  # of clients
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {  # of the strategies' own
    "fedavg": {},
    "fedprox": {"mu": (0.01, 0.1)},
    "scaffold": {},
    "fednova": {},
    "feddyn": {"alpha": (0.01, 0.1)},
    "fedavgm": {"momentum": (0.5, 0.9)},
    "fedadam": {"lr": (0.003, 0.01)},
    "fedyogi": {"lr": (0.003, 0.01)},
}


@dataclass(frozen=True)
class Run:
    """One training."""

    partition: str
    strategy: str
    seed: int
    lr: float
    own: tuple[tuple[str, float], ...]  # the strategy's parameters
    folder: Path  # with shards/ and test.safetensors

    def row(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key not in ("own", "folder")}
        return own | {"own": json.dumps(dict(self.own))}


def measure() -> pd.DataFrame:
    """A row a run, tuning included."""
    workers = ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory(dir="data") as scratch, workers as pool:
        tuned = _run_all(pool, "tuning", list(_grid(Path(scratch))))
        best = tuned.loc[tuned.groupby(["partition", "strategy"], sort=False)["accuracy"].idxmax()]
        runs = [
            Run(row.partition, row.strategy, seed, row.lr, tuple(json.loads(row.own).items()), folder)
            for seed in SEEDS
            for row in best.itertuples()
            for folder in [_data(Path(scratch), row.partition, seed, tuning=False)]
        ]
        final = _run_all(pool, "runs", runs)
    return pd.concat([tuned.assign(phase="tuning"), final.assign(phase="final")], ignore_index=True)


def _grid(scratch: Path) -> Iterator[Run]:
    for partition in PARTITIONS:
        folder = _data(scratch, partition, TUNING_SEED, tuning=True)
        for strategy, grid in GRIDS.items():
            for lr, *values in product(RATES, *grid.values()):
                own = tuple(zip(grid, values, strict=True))
                yield Run(partition, strategy, TUNING_SEED, lr, own, folder)


def _data(scratch: Path, partition: str, seed: int, *, tuning: bool) -> Path:
    """The folder of a partition; made once."""
    folder = scratch / f"{partition.replace(' ', '-')}-{seed}-{tuning}"
    if not folder.exists():
        train, test = (datasets.load(MNIST / f"{name}.safetensors") for name in ("train", "test"))
        if tuning:
            test = datasets.Split(train.images[-VALIDATION:], train.labels[-VALIDATION:])
            train = datasets.Split(train.images[:-VALIDATION], train.labels[:-VALIDATION])
        settings = Partition.model_validate({"clients": CLIENTS, **PARTITIONS[partition]})
        shards.write(folder / "shards", train.images, train.labels, settings.assign(train.labels.numpy(), seed), 10)
        write_tensors(folder / "test.safetensors", {"images": test.images, "labels": test.labels})
    return folder


def _run_all(pool: ProcessPoolExecutor, unit: str, runs: list[Run]) -> pd.DataFrame:
    rows = []
    with console.progress(unit, len(runs)) as bar:
        for row in pool.map(_accuracy, runs):
            rows.append(row)
            bar.advance()
            console.say(f"{row['partition']}, {row['strategy']} lr {row['lr']} {row['own']}: {row['accuracy']:.2%}")
    return pd.DataFrame(rows)


def _accuracy(run: Run) -> dict[str, Any]:
    """The run's row, with its accuracy, in a process of its own."""
    train_on_threads(1)
    settings = federated.Federated.model_validate(
        {
            "rounds": ROUNDS, "clients_per_round": COHORT, "evaluate_every": EVALUATE_EVERY, "evaluate_clients": False,
            "local": {"epochs": EPOCHS, "batch_size": BATCH, "optimizer": "sgd", "lr": run.lr},
            "strategy": run.strategy, **({run.strategy: dict(run.own)} if run.own else {}),
        }
    )  # fmt: skip
    model = ModelChoice(name="2nn").model
    with tempfile.TemporaryDirectory(dir=run.folder) as states:
        test = (run.folder / "test.safetensors").resolve()
        work = federated.Work(settings, model, run.seed, test, Path(states))

        def map(shared: Any, tasks: Iterable[Any]) -> Iterator[Any]:
            return (work(shared, task) for task in tasks)

        state, population = ServerState(0, initial_parameters(model, run.seed)), shards.locate(run.folder / "shards")
        rounds = [done for _, done in federated.run(state, work, population, len(datasets.load(test)), map)]
    accuracies = [done.test.accuracy for done in rounds if done.test]
    return run.row() | {"accuracy": sum(accuracies[-LAST:]) / LAST, "best": max(accuracies)}


def as_markdown(table: pd.DataFrame) -> str:
    """Mean and standard deviation over the seeds, and below them what the grid chose."""
    final = table[table["phase"] == "final"]
    lines = [
        f"MNIST, 2NN, {CLIENTS} clients, {COHORT} a round, {EPOCHS} local epochs of plain SGD, B={BATCH}, "
        f"{ROUNDS} rounds: test accuracy in percent,",
        f"mean ± standard deviation over seeds {', '.join(map(str, SEEDS))}; of each run the mean of rounds "
        f"{', '.join(str(ROUNDS - EVALUATE_EVERY * i) for i in reversed(range(LAST)))}.",
        "",
        *_table(final, lambda cell: f"{100 * cell['accuracy'].mean():.2f} ± {100 * cell['accuracy'].std():.2f}"),
        "",
        f"The clients' learning rate, of {', '.join(map(str, RATES))}, and the strategy's own parameter: best on "
        f"{VALIDATION:,} training images held back, seed {TUNING_SEED}.",
        "",
        *_table(final, lambda cell: _settings(cell.iloc[0])),
    ]
    return "\n".join(lines) + "\n"


def _settings(row: pd.Series) -> str:
    own = ", ".join(f"{key} {value:g}" for key, value in json.loads(row["own"]).items())
    return f"{row['lr']:g}" + (f"; {own}" if own else "")


def _table(final: pd.DataFrame, shown: Callable[[pd.DataFrame], str]) -> Iterator[str]:
    yield f"| | {' | '.join(PARTITIONS)} |"
    yield "| --- |" + " ---: |" * len(PARTITIONS)
    for strategy in GRIDS:
        of = final[final["strategy"] == strategy]
        cells = (shown(of[of["partition"] == partition]) for partition in PARTITIONS)
        yield f"| {strategy} | {' | '.join(cells)} |"
