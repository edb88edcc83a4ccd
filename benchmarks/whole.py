"""The whole pipeline beside the reference's two programs, on the same MNIST, one after the other."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torchvision.datasets

from fedpipe.data.sources import SOURCE_VARIABLE
from fedpipe.system.errors import UserError


def measure() -> pd.DataFrame:
    """Return a row for each command: the seconds from its start to its end, with the defaults that both have.

    Raises:
        UserError: no folder with the original files is named.
    """
    source = Path(os.environ.get(SOURCE_VARIABLE, ""))
    if not (source / "train-images-idx3-ubyte.gz").is_file():
        raise UserError(f"{SOURCE_VARIABLE}: {source}: must name the folder with the four original files of MNIST")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        checkout = scratch / "fedpipe"
        subprocess.run(["git", "clone", "-q", ".", checkout], check=True)
        data = scratch / "data"
        shutil.copytree(source, data / "MNIST" / "raw")
        torchvision.datasets.MNIST(str(data), download=True)  # verifies and unpacks; not timed
        reference = [sys.executable, "-m", "benchmarks.reference.{}", "--data_dir", str(data)]
        rows = [
            ("dvc repro, all of the pipeline", _timed(["dvc", "repro", "-f"], checkout)),
            ("reference, federated", _timed([part.format("federated") for part in reference], Path())),
            ("reference, baseline", _timed([part.format("baseline") for part in reference], Path())),
        ]
    return pd.DataFrame(rows, columns=["command", "seconds"])


def _timed(command: Sequence[str], folder: Path) -> float:
    """Run a command in a folder, and return how many seconds it took."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL, check=True)
    return round(time.perf_counter() - start, 1)


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README."""
    ours, *reference = table["seconds"]
    lines = ["| | seconds |", "| --- | ---: |"]
    lines += [f"| {row['command']} | {row['seconds']:.0f} |" for row in table.to_dict("records")]
    return "\n".join([*lines, "", f"Ratio: {ours / sum(reference):.2f} of the reference's two programs."]) + "\n"
