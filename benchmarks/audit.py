"""What an attacker can tell of who took part, beside what was promised: audits of private trainings by canaries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from fedpipe.audit import attack
from fedpipe.experiment import Experiment, FederatedData
from fedpipe.pipeline import DATASET
from fedpipe.studies.execution import partition_of, write_partition
from fedpipe.studies.plan import Plan, Run
from fedpipe.studies.study import read_study
from fedpipe.system.machine import cores

STUDY = "studies/privacy.yaml"  # whose trainings are attacked
GUESSES = 0.1  # of the canaries, the surest
ONE_THREAD = {"device": "cpu", "engine": "threads", "workers": 1}


def measure(scratch: Path) -> pd.DataFrame:
    """Return a row for each number of clients, epsilon and seed.

    All clients are canaries: nothing but canaries and noise moves the model, which is the strongest attack.

    Args:
        scratch: a folder for data.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    tasks = [delayed(_row)(run, scratch) for run in Plan(read_study(STUDY), STUDY).runs({})]
    return pd.DataFrame(Parallel(n_jobs=cores())(tasks))


def _row(run: Run, scratch: Path) -> dict[str, Any]:
    pipeline, data = run.pipeline, scratch / partition_of(run)
    write_partition(data, DATASET, pipeline)
    experiment = Experiment.model_validate(
        {"seed": run.seed, "model": pipeline.model, "federated": pipeline.federated, "compute": ONE_THREAD}
    )
    clients = pipeline.partition.clients
    audit = attack(experiment, FederatedData(DATASET, data), guesses=GUESSES, delta=clients**-1.1)
    return {
        "clients": clients,
        "promised": audit.epsilon and round(audit.epsilon, 2),
        "seed": run.seed,
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
    shown = table.assign(promised=["none" if pd.isna(of) else f"{of:g}" for of in table["promised"]])
    for clients, promised in shown[["clients", "promised"]].drop_duplicates().itertuples(index=False):
        rows = shown[(shown["clients"] == clients) & (shown["promised"] == promised)]
        right = ", ".join(f"{share:.1%}" for share in rows["correct"] / rows["guesses"])
        bounds = ", ".join(f"{bound:.2f}" for bound in rows["lower_bound"])
        yield f"| {clients:,} | {promised} | {rows['guesses'].tolist()[0]:,} | {right} | {bounds} |"
