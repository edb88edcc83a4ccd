"""What runs in a folder: read from the files that stages write while they run."""

import csv
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedpipe.system.console import duration
from fedpipe.system.errors import UserError
from fedpipe.system.lifetime import lives
from fedpipe.system.live import FOLDER, Status
from fedpipe.system.programs import dvc_in

FEW = 20  # clients that are named
START = 10.0  # seconds in which workers have started

Row = Mapping[str, str]


@dataclass(frozen=True)
class Stage:
    """A stage that runs, or has run, as it was when somebody looked."""

    status: Status
    rows: tuple[Row, ...]  # of its table, one for each step, ascending; none before it has written any
    here: bool  # whether it is a process of this machine
    lives: bool  # whether its process does; of another machine nobody knows, and it is taken for granted
    now: float  # when somebody looked; seconds since 1970

    @property
    def key(self) -> tuple[str, int, float]:
        """What no other run has in common with it."""
        return self.status.stage, self.status.process, self.status.began

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.lives and not self.status.outcome

    @property
    def steps_done(self) -> int:
        """How many steps are done, those of earlier runs included."""
        return int(self.status.done)

    @property
    def fraction(self) -> float | None:
        """How much of it is done, 0 to 1; None if that is not known yet."""
        return min(1.0, self.status.done / self.status.steps) if self.status.steps else None

    @property
    def seconds_left(self) -> float | None:
        """About how long its steps still take, if they take as long as those of this run so far.

        None if that is not known: at the beginning workers start, and a part of a step tells nothing.
        """
        status = self.status
        done = status.done - status.resumed
        if not self.runs or not status.steps or not done or (done < 1 and status.seconds < START):
            return None
        left = (status.steps - status.done) * status.seconds / done
        return max(0.0, left - (self.now - status.changed))

    @property
    def data(self) -> str:
        """What its curve's accuracies are of: "validation" if there are such data, else "test"."""
        return "validation" if any(row.get("validation_accuracy") for row in self.rows) else "test"

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The steps whose model was evaluated, and its accuracy."""
        column = f"{self.data}_accuracy"
        return [(int(row[self.status.unit]), float(row[column])) for row in self.rows if row.get(column)]

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        of = "" if self.status.steps is None else f" of {self.status.steps:,}"
        return f"{self.steps_done:,}{of} {self.status.unit}s"

    @property
    def result(self) -> str:
        """How good its last model is, in words."""
        if self.status.accuracy is None:
            return "no model evaluated yet"
        loss = "not a finite number" if self.status.loss is None else f"{self.status.loss:.4f}"
        return f"{self.status.data} accuracy {self.status.accuracy:.2%}, loss {loss}"

    @property
    def pace(self) -> str:
        """How long it takes and how fast it is, in words."""
        left = "time left: not known yet" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"
        return f"{left}; {self.status.rate:,.0f} examples a second" if self.status.rate else left

    @property
    def missing(self) -> str:
        """How many updates of which clients were refused and lost, in words; "" if that is not told."""
        told = {"refused": self.status.refused, "lost": self.status.lost}
        return "; ".join(f"updates {what}: {counted(by)}" for what, by in told.items() if by is not None)

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        name, (what, _, reason) = self.status.stage, self.status.outcome.partition(": ")
        again = "; it goes on when it is run again" if self.steps_done else ""
        return {
            "ended": f"{name} ended after {self.progress}: {self.result}",
            "interrupted": f"{name} was interrupted after {self.progress}{again}",
            "failed": f"{name} failed after {self.progress}: {reason}",
            "": f"{name} died after {self.progress}: process {self.status.process} is gone{again}",
        }[what]


@dataclass(frozen=True)
class State:
    """What runs in a folder, as it was when somebody looked."""

    folder: Path
    stages: tuple[Stage, ...]  # the latest run of each, the one that began last first
    commands: tuple[str, ...]  # of DVC, which run in the folder

    @property
    def running(self) -> Stage | None:
        """The stage that runs; of several, the one that began last."""
        return next((stage for stage in self.stages if stage.runs), None)

    @property
    def also(self) -> list[str]:
        """The names of the other stages that run."""
        return [stage.status.stage for stage in self.stages if stage.runs and stage is not self.running]

    @property
    def last(self) -> Stage | None:
        """The stage that was running last, if none is."""
        over = sorted((stage for stage in self.stages if not stage.runs), key=lambda stage: stage.status.changed)
        return over[-1] if over and not self.running else None

    @property
    def idle(self) -> str:
        """What there is to say while no stage trains."""
        if self.commands:
            return f"no training at the moment; DVC runs {' and '.join(self.commands)}"
        return "nothing runs here"


def look(folder: Path) -> State:
    """Return what runs in a folder.

    Args:
        folder: in which stages run: the project's, or the copy of it in which DVC runs an experiment.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder is there; name the project's, or leave it out")
    found = sorted(_statuses(folder), key=lambda status: -status.began)
    commands = tuple(f"`{command}` (process {process})" for command, process in dvc_in(folder))
    return State(folder, tuple(_seen(folder, status) for status in found), commands)


def clock(seconds: float) -> str:
    """Return the time of day of seconds since 1970, with the date if it is not today's."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)


def counted(by_client: Mapping[str, int]) -> str:
    """Say how many there are in all, and of which clients, in words."""
    if not by_client:
        return "none"
    names = [f"{client} ({count} times)" if count > 1 else client for client, count in ordered(by_client)[:FEW]]
    more = [f"{len(by_client) - FEW:,} more"] if len(by_client) > FEW else []
    return f"{sum(by_client.values()):,}, of client{'s' * (len(by_client) > 1)} {', '.join([*names, *more])}"


def ordered(by_client: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return clients and their counts, those that count most first, and then by number."""
    return sorted(by_client.items(), key=lambda item: (-item[1], int(item[0])))


def _statuses(folder: Path) -> list[Status]:
    """Return what stages tell; a file that another version of the code wrote tells nothing."""
    found = []
    for file in (folder / FOLDER).glob("*.json"):
        try:
            found.append(Status(**json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return found


def _seen(folder: Path, status: Status) -> Stage:
    here = status.machine == platform.node()
    rows = _table(folder / status.table) if status.table else ()
    return Stage(status, rows, here, not here or lives(status.process, status.process_began), time.time())


def _table(path: Path) -> tuple[Row, ...]:
    """Return the rows of a table; none if DVC has removed it."""
    try:
        stat = path.stat()
        return _rows(path, stat.st_mtime_ns, stat.st_ino)
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _rows(path: Path, *version: int) -> tuple[Row, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
