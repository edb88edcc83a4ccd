"""What a stage tells of its training while it runs: a small file, which `fedpipe watch` reads.

Nothing follows from it: a stage that cannot write it goes on.
"""

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fedpipe.system.console import Evaluated
from fedpipe.system.lifetime import began
from fedpipe.system.pace import Pace

FOLDER = Path(".fedpipe/stages")  # in the folder in which stages run; git ignores it, and DVC does not know of it
PERIOD = 1.0  # seconds from one time that the file is written to the next, at least
ALMOST = 0.999  # of a step that is not over


@dataclass
class Status:
    """How far the training of a stage is, or was when it ended."""

    stage: str
    unit: str  # of its steps, such as "round"
    steps: int | None  # that there are, unless it stops early; None if that is not known yet
    process: int
    process_began: str  # see `fedpipe.system.lifetime.began`
    machine: str
    began: float  # seconds since 1970
    resumed: int = 0  # steps that earlier runs did
    done: float = 0.0  # steps, those of earlier runs included, and the part of the next one that is done
    changed: float = 0.0  # when `done` last changed; seconds since 1970
    seconds: float = 0.0  # from the beginning until then
    rate: float | None = None  # training examples that this run processed in a second; None before a step is over
    data: str = ""  # what the last model was evaluated on, "validation" or "test"; "" if there is none yet
    accuracy: float | None = None  # of that model
    loss: float | None = None
    refused: dict[str, int] | None = None  # client: how many of its updates were refused; None if that is not told
    lost: dict[str, int] | None = None  # client: how many of its updates did not arrive; likewise
    table: str | None = None  # the file of all steps so far, in the same folder; None until this run has written it
    outcome: str = ""  # "ended", "interrupted" or "failed: REASON"; "" while it runs, and if it was killed


class Live:
    """Tell how far a stage is. `running` makes it."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self._began, self._examples, self._pace = time.monotonic(), 0, Pace(PERIOD)

    def go_on(self, done: int) -> None:
        """Tell that earlier runs did so many steps."""
        self.status.resumed, self.status.done = done, done
        write(self.status)

    def advance(self, part: float) -> None:
        """Tell that so much more of the current step is done, as a fraction of it."""
        whole = math.floor(self.status.done)
        self._changed(min(self.status.done + part, whole + ALMOST))

    def step(self, done: int, evaluations: Mapping[str, Evaluated], examples: int) -> None:
        """Tell that a step ended.

        Args:
            done: steps that are done now.
            evaluations: of the model after it, by what the examples are called, that which decides first; none if it
                was not evaluated.
            examples: the training examples that were processed since the last call.
        """
        self._examples += examples
        self.status.rate = self._examples / (time.monotonic() - self._began)
        for data, evaluation in [*evaluations.items()][:1]:
            self.status.data, self.status.accuracy, self.status.loss = data, evaluation.accuracy, evaluation.loss
        self._changed(done)

    def count(self, refused: Iterable[int], lost: Iterable[int]) -> None:
        """Count the clients whose updates were refused, and those whose updates did not arrive."""
        self.status.refused = _counted(self.status.refused, refused)
        self.status.lost = _counted(self.status.lost, lost)

    def _changed(self, done: float) -> None:
        status = self.status
        status.done, status.changed, status.seconds = done, time.time(), time.monotonic() - self._began
        with self._pace.turn() as due:
            if due:
                write(status)


def _counted(counts: dict[str, int] | None, clients: Iterable[int]) -> dict[str, int]:
    """Return the counts with these clients, whose numbers are texts as JSON has it."""
    return dict(Counter(counts or {}) + Counter(map(str, clients)))


@contextmanager
def running(stage: str, unit: str, steps: int | None = None) -> Iterator[Live]:
    """Have a file tell how far a stage is while the block runs, and in the end what became of it.

    Args:
        stage: its name.
        unit: of its steps, such as ``round``.
        steps: how many there are, unless it stops early; None if that is not known yet.
    """
    process, now = os.getpid(), time.time()
    live = Live(Status(stage, unit, steps, process, began(process), platform.node(), now, changed=now))
    write(live.status)
    try:
        yield live
        live.status.outcome = "ended"
    except (KeyboardInterrupt, SystemExit):
        live.status.outcome = "interrupted"
        raise
    except BaseException as error:
        live.status.outcome = f"failed: {' '.join(str(error).split()) or type(error).__name__}"
        raise
    finally:
        write(live.status)


def write(status: Status) -> None:
    """Write the file of a stage, if that is possible."""
    from fedpipe.system.files import write_json, write_text  # here, so that who only reads it need not load torch

    with suppress(OSError):
        if not (FOLDER / ".gitignore").exists():
            write_text(FOLDER / ".gitignore", "*\n")
        write_json(FOLDER / f"{status.stage}.json", asdict(status))
