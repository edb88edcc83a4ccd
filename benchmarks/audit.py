"""What an attacker can tell of who took part, beside what was promised: audits of private trainings by canaries."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from benchmarks.data import prepare
from benchmarks.fedpipe_runner import data_in
from benchmarks.workloads import Workload
from fedpipe.audit import attack
from fedpipe.experiment import Experiment
from fedpipe.system.machine import cores

POPULATIONS = (
    Workload("1,000 clients", "logistic", clients=1000, per_client=60, cohort=100, batch_size=10, lr=0.1, rounds=30),
    Workload("10,000 clients", "logistic", clients=10_000, per_client=6, cohort=1000, batch_size=10, lr=0.1, rounds=30),
)
EPSILONS = (None, 8.0, 3.0, 1.0)  # promised; None promises nothing
SEEDS = (1, 2, 3)
GUESSES = 0.1  # of the canaries, the surest


def measure(scratch: Path) -> pd.DataFrame:
    """Return a row for each population, epsilon and seed; parameters are those of studies/privacy.yaml.

    All clients are canaries: nothing but canaries and noise moves the model, which is the strongest attack.

    Args:
        scratch: a folder for data.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    folders = {work.name: prepare(work, scratch)[1] for work in POPULATIONS}
    cells = list(product(POPULATIONS, EPSILONS, SEEDS))
    tasks = [delayed(_row)(work, epsilon, seed, folders[work.name]) for work, epsilon, seed in cells]
    return pd.DataFrame(Parallel(n_jobs=cores())(tasks))


def _row(work: Workload, epsilon: float | None, seed: int, folder: Path) -> dict[str, Any]:
    private = {"privacy": "gaussian", "gaussian": {"clip": 0.5, "epsilon": epsilon}} if epsilon else {}
    federated = {
        "rounds": work.rounds,
        "evaluate_every": work.rounds,
        "clients_per_round": work.cohort,
        "sampling": "poisson",
        "objective": "clients",
        "evaluate_clients": False,
        "local": {"epochs": 1, "batch_size": work.batch_size, "optimizer": "sgd", "lr": work.lr},
        **private,
    }
    compute = {"device": "cpu", "engine": "threads", "workers": 1}
    experiment = Experiment.model_validate(
        {"seed": seed, "model": {"name": work.model}, "federated": federated, "compute": compute}
    )
    audit = attack(experiment, data_in(folder), guesses=GUESSES, delta=work.clients**-1.1)
    return {
        "clients": work.clients,
        "promised": epsilon,
        "seed": seed,
        "guesses": audit.guesses,
        "correct": audit.correct,
        "lower_bound": audit.lower_bound,
    }


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README, at most 100 columns wide."""
    return "\n".join(_lines(table)) + "\n"


def _lines(table: pd.DataFrame) -> Iterator[str]:
    yield "| clients | epsilon promised | guesses | right, by seed | lower bound of epsilon, by seed |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for work, promised in product(POPULATIONS, EPSILONS):
        same = table["promised"].isna() if promised is None else table["promised"] == promised
        rows = table[(table["clients"] == work.clients) & same]
        right = ", ".join(f"{share:.1%}" for share in rows["correct"] / rows["guesses"])
        bounds = ", ".join(f"{bound:.2f}" for bound in rows["lower_bound"])
        shown = "none" if promised is None else f"{promised:g}"
        yield f"| {work.clients:,} | {shown} | {rows['guesses'].iloc[0]:,} | {right} | {bounds} |"
