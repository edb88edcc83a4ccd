"""What people see while a stage or a command runs: lines, a progress bar, and one line for a mistake of theirs."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn, Protocol

import rich
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedpipe.system.errors import UserError, naming

REMEDIES = {  # what helps where the system refuses something
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it readable and writable",
    errno.EPERM: "make it readable and writable",
    errno.EIO: "look after the disk",
    errno.EPIPE: "let its reader read to the end",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, which have too many files open",
    errno.ENOMEM: "free some memory, raise its limit (ulimit -v), or lower compute.workers",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or lower compute.workers",
}

console = Console(highlight=False, soft_wrap=True, force_jupyter=False)  # in a notebook, lines are plain text too


def say(line: str) -> None:
    """Print a line as it is: on a terminal above the progress bar if there is one, in a notebook below it."""
    with naming("standard output"):
        console.print(line, markup=False)


class Evaluated(Protocol):
    """The evaluation of a model, as a line of progress shows it."""

    @property
    def accuracy(self) -> float: ...
    @property
    def loss(self) -> float: ...


class Bar:
    """Show the progress of a training: a bar with the time left, and a line for each step.

    The bar is drawn on terminals and in notebooks only. `progress` makes it.
    """

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._began = time.monotonic()
        self._examples = 0

    def advance(self, count: float = 1, total: float | None = None) -> None:
        """Move the bar on by so many of its units, and set the total if it is known now."""
        self._progress.update(self._task, advance=count, total=total)

    def report(self, step: str, evaluations: Mapping[str, Evaluated], examples: int) -> None:
        """Print a line about a step that ended.

        Args:
            step: its name, such as ``round 3``.
            evaluations: of the model after it, by what the examples are called; none if it was not evaluated.
            examples: the training examples that it processed.
        """
        self._examples += examples
        seconds = time.monotonic() - self._began
        results = ""
        for data, evaluation in evaluations.items():
            results += f"{data} accuracy {evaluation.accuracy:.2%}, loss {evaluation.loss:.4f}; "
            self._progress.update(self._task, description=f"{data} accuracy {evaluation.accuracy:.2%}")
        rate = self._examples / seconds
        say(f"{step}: {results}{self._examples:,} examples in {seconds:.1f} s, {rate:,.0f} a second")


class NotebookProgress(Progress):
    """A progress bar in a notebook: an output of the cell that is drawn anew, and stays. It needs no widgets."""

    def start(self) -> None:
        from IPython.display import display

        self._output: Any = display(self, display_id=True)
        self._drawn = time.monotonic()

    def update(self, *args: Any, **changes: Any) -> None:
        super().update(*args, **changes)
        if time.monotonic() - self._drawn > 0.1:
            self.refresh()

    def refresh(self) -> None:
        self._output.update(self)
        self._drawn = time.monotonic()

    def stop(self) -> None:
        self.refresh()


@contextmanager
def progress(unit: str, total: int | None) -> Iterator[Bar]:
    """Show a progress bar while the block runs, with the lines printed with `say` meanwhile above it or below it.

    Args:
        unit: what the bar counts, such as ``epochs``.
        total: how many of them there are; None if that is not known yet.
    """
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    if rich.get_console().is_jupyter:
        shown = NotebookProgress(*columns)
    else:
        shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown:
        yield Bar(shown, total)


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} hours"


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage or a command, and exit.

    The exit status is 0 if it succeeds, 1 after a UserError or where the system refuses what is needed, which lines on
    stderr tell, and 130 after Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, which libraries do not expect; the lowest free number is the next to be given
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the locale lacks a letter
    status = 1
    try:
        main()
        status = 0
    except UserError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except (OSError, MemoryError) as error:
        if _is_out() and not _refused(error):
            raise
        sys.exit(1)
    sys.exit(status if _is_out() else 1)


def _refused(error: OSError | MemoryError) -> bool:
    """Say what the system refuses and what would help, and return whether it is known."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno
    if number not in REMEDIES:
        return False
    about = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    print(f"{about}{os.strerror(number)}; {REMEDIES[number]}, and run it again", file=sys.stderr)
    return True


def _is_out() -> bool:
    """Return whether all that was printed is out; else say so once, and let the rest go nowhere."""
    try:
        if sys.stdout:
            sys.stdout.flush()
        return True
    except OSError as error:
        print(f"standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python tries again at the end
        return False
