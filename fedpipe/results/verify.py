"""Do the results in this workspace agree with those committed in git?

Machines of one CPU type with one version of torch compute the same bits. Elsewhere float rounding may differ, and
training amplifies it, so there results are held to a tolerance instead.
"""

import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedpipe.config.file import flat
from fedpipe.system.errors import UserError
from fedpipe.system.files import read_json
from fedpipe.system.provenance import FILE as PROVENANCE
from fedpipe.system.provenance import provenance

REPORT = Path("reports/comparison.json")  # all figures of all trainings
MADE = {  # by the stages that train; git does not hold it
    "federated": Path("models/federated.safetensors"),
    "baseline": Path("models/baseline.safetensors"),
    "local": Path("reports/local/clients.csv"),
}

# Between CPU types. Training amplifies rounding until a run is as good as one of another seed, and the baseline's later
# epochs alone scatter by 0.1 points and 0.004 in loss (standard deviation).
ACCURACY_TOLERANCE = 0.003  # fraction
LOSS_TOLERANCE = 0.02
STEPS_TOLERANCE = 2  # rounds or epochs to the target
SHARE_TOLERANCE = 0.125  # of the clients: one of the eight


@dataclass(frozen=True)
class Verdict:
    """Tell whether the workspace's results agree with the committed ones, and how strictly they were compared."""

    exact: bool  # whether they were held to equality, because this machine is like the one of the committed results
    differences: list[str]  # a line for each; empty if the results agree
    made_elsewhere: list[str]  # a line for each training of the workspace that this machine did not do


def verify(revision: str = "HEAD") -> Verdict:
    """Compare the figures in the workspace, which is the current folder, with those of a git revision.

    Results are held to equality if reports/provenance.json names this machine's CPU type and torch version, in the
    workspace and as it is committed, and the same device. Otherwise they are held to a tolerance.

    Raises:
        UserError: there is no git repository; the pipeline did not run here, so that there is nothing to verify; or
            the workspace or the revision has no such report.
    """
    there, committed = flat(_committed(REPORT, revision)), _committed(PROVENANCE, revision)
    _require_a_run()
    here, told = flat(read_json(REPORT)), read_json(PROVENANCE)

    machine = provenance(torch.device("cpu"))
    made_here, made_there = ({stage: one.get(stage, {}) for stage in MADE} for one in (told, committed))
    mine = [stage for stage in MADE if _is_like(machine, made_here[stage])]
    exact = all(
        stage in mine and all(made_here[stage].get(key) == made_there[stage].get(key) for key in machine)
        for stage in MADE
    )
    differences = [
        f"{REPORT}: {key}: {here.get(key, 'missing')} here, {there.get(key, 'missing')} in {revision}"
        for key in sorted(here.keys() | there.keys())
        if not _equal(here.get(key), there.get(key)) and (exact or not _agree(key, here.get(key), there.get(key)))
    ]
    made_elsewhere = [
        f"{stage}: made on {made_here[stage].get('cpu')} with torch {made_here[stage].get('torch')}; "
        f"this machine is {machine['cpu']} with torch {machine['torch']}"
        for stage in MADE
        if stage not in mine
    ]
    return Verdict(exact, differences, made_elsewhere)


def _require_a_run() -> None:
    """Raise UserError if the reports in the workspace can only be the committed ones, because nothing else was made."""
    missing = [f"no {made}" for made in MADE.values() if not made.exists()]
    if missing:
        raise UserError(
            f"these results were not made here: there is {' and '.join(missing)}, so the reports are the "
            "committed ones; `dvc repro` runs the pipeline here"
        )


def _committed(report: Path, revision: str) -> Any:
    try:
        shown = subprocess.run(["git", "show", f"{revision}:./{report.as_posix()}"], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"git, which holds the committed results, cannot be run: {error.strerror}") from None
    if shown.returncode:
        reason = shown.stderr.strip().rpartition("fatal: ")[2].splitlines()[0]
        raise UserError(f"{report}: cannot be read from git at {revision}: {reason}")
    return json.loads(shown.stdout)


def _is_like(machine: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether another machine has the CPU type and the torch version of this one."""
    return all(other.get(key) == machine[key] for key in ("cpu", "torch"))


def _equal(a: Any, b: Any) -> bool:
    """Return whether two values are the same; NaN, the loss of a training that diverged, equals NaN."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _agree(key: str, a: Any, b: Any) -> bool:
    """Return whether two values that are not equal differ by no more than the tolerance of this metric."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        if key.startswith("partition."):
            return math.isclose(a, b, rel_tol=1e-9)  # logarithms differ in their last bit
        if key.endswith("worst_tenth_accuracy"):
            return math.isclose(a, b, rel_tol=0, abs_tol=2 * ACCURACY_TOLERANCE)  # of few clients, here of one
        if key.endswith(("accuracy", "accuracy_std", "accuracy_gini")):
            return math.isclose(a, b, rel_tol=0, abs_tol=ACCURACY_TOLERANCE)
        if key.endswith(("gap_points", "gain_points")):
            return math.isclose(a, b, rel_tol=0, abs_tol=2 * 100 * ACCURACY_TOLERANCE)
        if key.endswith("clients_gaining"):
            return math.isclose(a, b, rel_tol=0, abs_tol=SHARE_TOLERANCE)
        if key.endswith("loss"):
            return math.isclose(a, b, rel_tol=0, abs_tol=LOSS_TOLERANCE)
        if key.endswith("to_target"):
            return abs(a - b) <= STEPS_TOLERANCE
    return False
