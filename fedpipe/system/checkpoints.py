"""Checkpoints: what a run needs to go on after whatever ended it, exactly as if nothing had.

The checkpoints of a run lie in a folder named by all that its result follows from, so that no other run can take them
for its own.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import torch

from fedpipe.system.errors import naming
from fedpipe.system.files import sha256_of_file, write_json, write_text
from fedpipe.system.pace import Pace
from fedpipe.system.provenance import code, provenance
from fedpipe.system.records import Record
from fedpipe.system.saved import DIGEST, Damaged, checked, load, save, to_disk, with_digest

GENERATIONS = 2  # the newest checkpoint and the one before it, for the newest may turn out damaged
FORGOTTEN = 30 * 24 * 3600  # seconds after which the checkpoints of a run that nobody went on with are deleted
SUFFIX = ".checkpoint"
FOLDER = ".fedpipe/checkpoints"  # in a project
LOCK, FINISHED = "lock", "finished"
PATIENCE = 5.0  # seconds that the last user of a folder has to end

State = TypeVar("State", bound=Record)
Step = TypeVar("Step", bound=Record)


class Checkpoints(Generic[State, Step]):
    """The checkpoints of one run, in a folder of its own.

    A checkpoint is a file with the run's state, named by the number of steps done: a SHA-256 and a record's bytes.
    Beside it lies the history: what each step did, appended and never rewritten, likewise. So do the run's own files,
    without which there is nothing to go on from.

    Args:
        folder: must be there; None saves nothing.
        state: the record that a step leaves behind and the next one begins with.
        step: the record of what a step did.
        seconds: the least time between two checkpoints, see `Pace`.
    """

    def __init__(self, folder: Path | None, state: type[State], step: type[Step], seconds: float = 0.0) -> None:
        self._folder, self._state, self._step = folder, state, step
        self._end = 0  # of what counts in the history
        self._unsaved: list[Step] = []
        self._pace = Pace(seconds)

    @property
    def own_files(self) -> Path | None:
        """A folder for files that the run itself keeps from step to step; None if nothing is saved."""
        return self._folder and self._folder / "files"

    @property
    def oldest(self) -> int:
        """The smallest number of steps after which the run may have to go on; 0 if it may have to begin anew."""
        saved = self._numbers()
        return saved[-1] if len(saved) == GENERATIONS else 0

    def load(self) -> tuple[State, list[Step]] | None:
        """Return the newest undamaged state and what the steps up to it did; None where there is none.

        What was saved after it is deleted.
        """
        for number in self._numbers():
            try:
                if not (self.own_files and self.own_files.is_dir()):
                    raise Damaged
                state = load(self._state, self._file(number))
                steps, self._end = self._steps(number)
            except (OSError, Damaged):
                self._file(number).unlink(missing_ok=True)
            else:
                return state, steps
        if self.own_files:
            shutil.rmtree(self.own_files, ignore_errors=True)
        return None

    def save(self, number: int, state: State, step: Step) -> None:
        """Save the state after so many steps if that is due.

        Args:
            number: of steps done.
            state: after these.
            step: what the last of these did. It is saved with the next state that is.

        Raises:
            OSError: the disk is full, or the folder cannot be written to. Earlier checkpoints are as they were.
        """
        if self._folder is None:
            return
        self._unsaved.append(step)
        with self._pace.turn() as due:
            if due:
                self._save(number, state)

    def _save(self, number: int, state: State) -> None:
        assert self.own_files, "something is saved"
        self.own_files.mkdir(exist_ok=True)
        with naming(self._history), self._history.open("r+b" if self._end else "wb") as file:
            file.truncate(self._end)
            file.seek(self._end)
            for data in (each.encode() for each in self._unsaved):
                file.write(len(data).to_bytes(8, "little") + with_digest(data))
            end = file.tell()
            to_disk(file)
        save(state, self._file(number), lasting=True)
        for old in self._numbers()[GENERATIONS:]:
            self._file(old).unlink()
        self._unsaved, self._end = [], end

    def finish(self, recorded_in: Path | None = None) -> None:
        """Delete the checkpoints of a run that is over, or have them deleted once its result is recorded.

        Args:
            recorded_in: a file that is written again when the result is recorded; None means that it is recorded.
        """
        if self._folder and recorded_in:
            if self.own_files and self.own_files.is_dir():
                shutil.rmtree(self.own_files)
                self.own_files.mkdir()
            content = {"until": str(recorded_in.resolve()), "changes": _version(recorded_in)}
            write_json(self._folder / FINISHED, content)
        elif self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _steps(self, number: int) -> tuple[list[Step], int]:
        """Return what the first steps did, from the history, and where these end in it."""
        steps: list[Step] = []
        with self._history.open("rb") as file:
            while len(steps) < number:
                length = int.from_bytes(file.read(8), "little")
                if length > self._history.stat().st_size:
                    raise Damaged
                data = file.read(DIGEST + length)
                if len(data) < DIGEST + length:
                    raise Damaged
                steps.append(self._step.decode(checked(data)))
            return steps, file.tell()

    def _numbers(self) -> list[int]:
        """Return the numbers of steps after which there is a checkpoint, the newest first."""
        files = [file for file in self._folder.glob(f"*{SUFFIX}") if file.stem.isdigit()] if self._folder else []
        return sorted((int(file.stem) for file in files), reverse=True)

    def _file(self, number: int) -> Path:
        assert self._folder, "something is saved"
        return self._folder / f"{number:06d}{SUFFIX}"

    @property
    def _history(self) -> Path:
        assert self._folder, "something is saved"
        return self._folder / "history"


def in_project(folder: Path) -> Path:
    """Return where the checkpoints of a DVC project lie, which outlives an experiment.

    Args:
        folder: of the project, or the copy of it in which `dvc exp run --temp` or a queue runs an experiment.
    """
    parts = folder.resolve().parts
    for place in range(len(parts) - 2):
        if parts[place : place + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:place]) / FOLDER
    return folder / FOLDER


def origin(parameters: Any, precision: str, device: torch.device, data: Iterable[Path]) -> dict[str, Any]:
    """Return all that the bits of a training's result follow from, as JSON can say it.

    Args:
        parameters: of the training, but for how it is computed.
        precision: of its arithmetic.
        device: that trains.
        data: files whose content decides what is trained on.
    """
    return {
        "parameters": parameters,
        "precision": precision,
        "machine": provenance(device),
        "data": [sha256_of_file(file) for file in data],
        "code": code(),
    }


@contextmanager
def checkpoints(
    root: Path | None, follows_from: Callable[[], Any], state: type[State], step: type[Step], seconds: float
) -> Iterator[Checkpoints[State, Step]]:
    """Give the block the checkpoints of a run. While another process uses them, nothing is saved.

    Folders of results that are recorded, and those that no run used for a month, are deleted.

    Args:
        root: of the folders of all runs; None saves nothing. It is made if it is not there, and git is told to ignore
            it.
        follows_from: returns all that the run's result follows from, as JSON can say it. It is not asked if nothing is
            saved.
        state: as in `Checkpoints`.
        step: likewise.
        seconds: likewise.
    """
    if root is None:
        yield Checkpoints(None, state, step, seconds)
        return
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".gitignore").exists():
        write_text(root / ".gitignore", "*\n")
    for old in root.iterdir():
        with suppress(OSError):
            if old.is_dir() and (_recorded(old) or time.time() - old.stat().st_mtime > FORGOTTEN):
                shutil.rmtree(old)
    folder = root / hashlib.sha256(json.dumps(follows_from(), sort_keys=True).encode()).hexdigest()[:16]
    end = time.monotonic() + PATIENCE
    while (lock := _locked(folder)) is None and time.monotonic() < end:
        time.sleep(0.1)
    with lock or nullcontext():
        yield Checkpoints(folder if lock else None, state, step, seconds)


def _locked(folder: Path) -> BinaryIO | None:
    """Return the lock of a folder of checkpoints, to be closed when it is no longer used; None while another has it."""
    folder.mkdir(exist_ok=True)
    lock = (folder / LOCK).open("wb")
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat((folder / LOCK).stat(), os.fstat(lock.fileno())):  # else its last user has deleted it
            os.utime(folder)
            return lock
    lock.close()
    return None


def _recorded(folder: Path) -> bool:
    """Tell whether the run of a folder is over and its result recorded."""
    try:
        content = json.loads((folder / FINISHED).read_text())
        return content["changes"] != _version(Path(content["until"]))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _version(file: Path) -> list[int]:
    """Return what differs whenever a file was written again, even with the same content."""
    try:
        stat = file.stat()
    except OSError:
        return []
    return [stat.st_ino, stat.st_mtime_ns, stat.st_size]
