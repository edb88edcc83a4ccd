"""Do the results in this workspace agree with those committed in git?

On machines of one CPU type with one torch version the bits are the same; elsewhere float rounding may differ, and
training amplifies it, so results are held to a tolerance instead.
"""

import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpipe.errors import UserError
from fedpipe.files import read_json

REPORTS = (
    Path("reports/federated/metrics.json"),
    Path("reports/baseline/metrics.json"),
    Path("reports/comparison.json"),
)
MACHINE = ("cpu", "torch", "device")  # what decides whether bits must be equal

# Between CPU types. Training amplifies rounding until a run is as good as one of another seed, and the baseline's later
# epochs alone scatter by 0.1 points and 0.004 in loss (standard deviation).
ACCURACY_TOLERANCE = 0.003  # fraction
LOSS_TOLERANCE = 0.02
STEPS_TOLERANCE = 2  # rounds or epochs to the target


@dataclass(frozen=True)
class Verdict:
    exact: bool  # held to equality, because the machines are alike
    differences: list[str]  # a line each; empty if the results agree


def verify(revision: str = "HEAD", reports: tuple[Path, ...] = REPORTS) -> Verdict:
    """Compares the workspace's metrics with a git revision's.

    Raises:
        UserError: a report is missing in the workspace or the revision.
    """
    here = [dict(_flat(read_json(report))) for report in reports]
    there = [dict(_flat(_committed(report, revision))) for report in reports]
    exact = all(
        a.get(key) == b.get(key) for a, b in zip(here, there, strict=True) for key in a if key.endswith(MACHINE)
    )
    differences = [
        f"{report}: {key}: {a.get(key)} here, {b.get(key)} in {revision}"
        for report, a, b in zip(reports, here, there, strict=True)
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and (exact or not _agree(key, a.get(key), b.get(key)))
    ]
    return Verdict(exact, differences)


def _agree(key: str, a: Any, b: Any) -> bool:
    """Whether values that are not equal differ by no more than rounding may do."""
    if key.endswith(MACHINE):
        return True
    if isinstance(a, int | float) and isinstance(b, int | float):
        if key.endswith("accuracy"):
            return math.isclose(a, b, rel_tol=0, abs_tol=ACCURACY_TOLERANCE)
        if key.endswith("gap_points"):
            return math.isclose(a, b, rel_tol=0, abs_tol=2 * 100 * ACCURACY_TOLERANCE)
        if key.endswith("loss"):
            return math.isclose(a, b, rel_tol=0, abs_tol=LOSS_TOLERANCE)
        if key.endswith("to_target"):
            return abs(a - b) <= STEPS_TOLERANCE
    return False


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _committed(report: Path, revision: str) -> Any:
    shown = subprocess.run(["git", "show", f"{revision}:./{report.as_posix()}"], capture_output=True, text=True)
    if shown.returncode:
        raise UserError(f"{report}: not in git's {revision}: {shown.stderr.strip().splitlines()[-1]}")
    return json.loads(shown.stdout)
