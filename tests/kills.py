"""Kill pipelines at random moments, in every way they can be killed, and run them again until they end.

`python -m tests.kills 200` does so 200 times and prints a table; `test_interruption.py` does so a few times. Every run
must end with the bits of one that was not killed, and lose at most the round that it was in.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import checkout, hashes, run, set_params

ROUNDS = 6
LEFT = 90  # seconds in which all processes must have ended; two helpers of Ray's own look for the others for 60
SMALL: dict[str, Any] = {
    "download.retries": 0,
    "partition.clients": 6,
    "federated.rounds": ROUNDS,
    "federated.clients_per_round": 3,
    "federated.local.epochs": 20,
    "federated.local.lr": 0.01,
    "federated.local.optimizer": "sgd",
    "federated.local.batch_size": 10,
    "model.name": "logistic",
    "compute.workers": 2,
    "compute.checkpoint_every": 0.0,
}
STRATEGIES = ("fedavg", "scaffold", "feddyn", "fedavgm", "fedadam", "fedyogi")
ENGINES = ("processes", "threads", "processes", "threads", "ray")
WAYS = {  # who is sent which signal
    "dvc alone, SIGKILL": ("dvc", signal.SIGKILL),
    "dvc alone, SIGTERM": ("dvc", signal.SIGTERM),
    "the stage alone, SIGKILL": ("stage", signal.SIGKILL),
    "the stage alone, SIGTERM": ("stage", signal.SIGTERM),
    "all at once, SIGKILL": ("all", signal.SIGKILL),
    "all at once, SIGINT, as by Ctrl-C": ("all", signal.SIGINT),
}


SPOKE = re.compile(r"^(round 1:|interrupted before)", re.MULTILINE)
REPORT = re.compile(r"^round (\d+): test", re.MULTILINE)


@dataclass(frozen=True)
class Killed:
    """What became of a pipeline that was killed."""

    way: str
    seen: int  # rounds that the stage had reported when it was killed
    resumed: int  # the round after which the next run went on; 0 if it began anew
    orphans: tuple[str, ...]  # processes of the killed run that were there a minute later
    traceback: bool  # in what it printed
    same: bool  # as the bits of a run that was not killed

    @property
    def verdict(self) -> str:
        """What is wrong with it, or "well"."""
        wrong = [
            *([f"went on after round {self.resumed}"] if self.seen - self.resumed > 1 else []),
            *(f"orphan: {orphan}" for orphan in self.orphans),
            *(["a traceback"] if self.traceback else []),
            *([] if self.same else ["other bits"]),
        ]
        return ", ".join(wrong) or "well"


def hunt(base: Path, project: Path, setting: Mapping[str, object], chance: random.Random) -> list[Killed]:
    """Kill a run and the runs that go on from it until one ends, and return what became of each that was killed."""
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(base, project, symlinks=True)
    expected = whole(project, setting)
    run("git checkout -q dvc.lock", project)
    killed: list[tuple[str, str, list[str]]] = []
    while True:
        way = chance.choice(list(WAYS))
        output, left, ended = kill(project, way, rounds=chance.randrange(4), seconds=chance.uniform(0.0, 3.0))
        if ended:
            break
        killed.append((way, output, left))
    outputs = [output for _, output, _ in killed[1:]] + [output]
    for place in reversed(range(len(outputs) - 1)):
        if not SPOKE.search(outputs[place]):  # it was killed while it began: where it would have gone on, the next says
            outputs[place] = outputs[place + 1]
    return [
        Killed(
            way, reported(before), resumed(after), tuple(left), "Traceback" in before,
            same=federated(project) == expected,
        )
        for (way, before, left), after in zip(killed, outputs, strict=True)
    ]  # fmt: skip


def table(results: list[Killed]) -> str:
    """Return how many were killed in each way, and how many of them went on well."""
    number, well = Counter(one.way for one in results), Counter(one.way for one in results if one.verdict == "well")
    rows = [f"| {way} | {number[way]} | {well[way]} |" for way in WAYS]
    total = f"| together | {len(results)} | {sum(well.values())} |"
    head = ["| killed | times | the same bits, at most a round lost, nothing left |", "| --- | ---: | ---: |"]
    return "\n".join([*head, *rows, total])


def prepared(folder: Path) -> Path:
    """Make a project with data and partition, to be copied for each setting."""
    checkout(folder)
    set_params(folder, SMALL)
    run("dvc repro partition", folder)
    return folder


def whole(project: Path, setting: Mapping[str, object]) -> dict[str, str]:
    """The hashes of the outputs of a run that nobody kills."""
    set_params(project, setting)
    run("dvc repro -f federated --single-item", project)
    return federated(project)


def federated(project: Path) -> dict[str, str]:
    return {path: md5 for path, md5 in hashes(project).items() if "federated" in path}


def kill(project: Path, way: str, *, rounds: int, seconds: float) -> tuple[str, list[str], bool]:
    """Train, and kill it so many seconds after it reported so many rounds.

    Returns:
        What it printed, the commands of its processes that were there a minute later, and whether it ended by itself.
    """
    who, what = WAYS[way]
    log = project / ".log"
    with log.open("w") as out:
        dvc = subprocess.Popen(
            [Path(sys.executable).parent / "dvc", "repro", "-f", "federated", "--single-item"],
            cwd=project, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        top, stage = psutil.Process(dvc.pid), None
        while dvc.poll() is None and not stage:
            stage = next((p for p in top.children(recursive=True) if "stages.federated" in " ".join(_command(p))), None)
            time.sleep(0.01)
        while dvc.poll() is None and len(REPORT.findall(log.read_text())) < rounds:
            time.sleep(0.01)
        end = time.monotonic() + seconds
        while dvc.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        family = [top, *top.children(recursive=True)] if top.is_running() else [top]
        if stage and stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE:  # else DVC records its work
            if who == "all":
                os.killpg(dvc.pid, what)
            else:
                os.kill(dvc.pid if who == "dvc" else stage.pid, what)
        dvc.wait()
        done = dvc.returncode == 0
    _, left = psutil.wait_procs(family, timeout=LEFT)
    return log.read_text(), [" ".join(_command(process)) for process in left], done


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def reported(output: str) -> int:
    """The last round that a stage reported."""
    return max(map(int, REPORT.findall(output)), default=resumed(output))


def resumed(output: str) -> int:
    """The round after which a stage said that it goes on; 0 if it did not."""
    found = re.search(r"going on after round (\d+)", output)
    return int(found[1]) if found else 0


def main() -> None:
    """Kill as often as the command line says, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, results = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        base = prepared(Path(scratch) / "base")
        while len(results) < given.kills:
            setting: dict[str, object] = {
                "federated.strategy": chance.choice(STRATEGIES),
                "compute.engine": chance.choice(ENGINES),
            }
            setting["seed"] = chance.randrange(1000)
            done = hunt(base, Path(scratch) / "project", setting, chance)
            results += done
            print(
                *setting.values(), *(f"{each.way} after round {each.seen}: {each.verdict}" for each in done), sep="\n  "
            )
    print(table(results))


if __name__ == "__main__":
    main()
