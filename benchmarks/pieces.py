"""What each piece of a round costs: aggregations, attacks, compressions and protections beside the plain mean."""

from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from rich.progress import track

from benchmarks.data import prepare
from benchmarks.fedpipe_runner import data_in
from benchmarks.workloads import Workload
from fedpipe.engines import Compute
from fedpipe.experiment import Experiment, iterate

WORKLOAD = Workload("pieces", "2nn", clients=100, per_client=600, cohort=20, batch_size=20, rounds=4)
PLAIN = "mean"
PRIVATE: dict[str, Any] = {"sampling": "poisson", "objective": "clients"}
PIECES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    **{
        f"aggregation {name}": {"aggregation": name}
        for name in (
            "norm-bounding", "median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median",
            "centered-clipping",
        )
    },
    "median, mixing nnm": {"aggregation": "median", "mixing": "nnm"},
    **{
        f"attack {name}": {"attack": name}
        for name in ("label-flip", "sign-flip", "scaled", "gaussian-noise", "alie", "ipm", "backdoor")
    },
    **{
        f"compression {name}": {"compression": name}
        for name in ("top-k", "random-k", "qsgd", "sign", "float16", "bfloat16")
    },
    "compression qsgd, zlib": {"compression": "qsgd", "entropy_coding": "zlib"},
    "privacy gaussian": {**PRIVATE, "privacy": "gaussian"},
    "privacy tree": {"sampling": "shuffled", "objective": "clients", "privacy": "tree"},
    "secure aggregation bonawitz": {"secure_aggregation": "bonawitz"},
}  # fmt: skip


def measure(repeats: int, scratch: Path) -> pd.DataFrame:
    """Return a row for each piece: seconds a round, the median over all rounds but each run's first, and the ratio.

    Args:
        repeats: runs of each piece; all run in turn, so that the machine's mood is nobody's fault.
        scratch: a folder for data.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    folder = prepare(WORKLOAD, scratch)[1]
    seconds: dict[str, list[float]] = {name: [] for name in PIECES}
    plan = [name for _ in range(repeats) for name in PIECES]
    for name in track(plan, description="pieces, and repeats"):
        rounds = [round for _, round in iterate(_experiment(PIECES[name]), data_in(folder))]
        seconds[name] += [round.training_seconds for round in rounds[1:]]
    table = pd.DataFrame({"piece": list(seconds), "seconds": [median(of) for of in seconds.values()]})
    return table.assign(ratio=table["seconds"] / table["seconds"].iloc[0])


def _experiment(changes: dict[str, Any]) -> Experiment:
    federated = {
        "rounds": WORKLOAD.rounds,
        "clients_per_round": WORKLOAD.cohort,
        "evaluate_every": WORKLOAD.rounds,
        "evaluate_clients": False,  # which not all pieces permit
        "local": {"epochs": 1, "batch_size": WORKLOAD.batch_size, "optimizer": "sgd", "lr": WORKLOAD.lr},
        **changes,
    }
    model, compute = {"name": WORKLOAD.model}, Compute(device="cpu")
    return Experiment.model_validate({"model": model, "federated": federated, "compute": compute})


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README, at most 100 columns wide."""
    lines = [
        f"{WORKLOAD.model}, {WORKLOAD.cohort} clients a round of {WORKLOAD.per_client} examples each, one epoch, "
        f"batches of {WORKLOAD.batch_size}:",
        "",
        "| piece | ms a round | times the plain mean |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {row['piece']} | {1000 * row['seconds']:,.0f} | {row['ratio']:.2f} |" for row in table.to_dict("records")
    ]
    return "\n".join(lines) + "\n"
