"""What a person sees while a stage runs: lines, a progress bar, and one line for a mistake of theirs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedpipe.errors import UserError

console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    console.print(line, markup=False)


class Evaluated(Protocol):
    """What a line of progress tells of a model."""

    @property
    def accuracy(self) -> float: ...
    @property
    def loss(self) -> float: ...


class Bar:
    """Progress of a training: a bar with the time left where there is a terminal, and a line for each evaluation."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._began = time.monotonic()
        self._examples = 0

    def advance(self) -> None:
        """One unit of the total is done."""
        self._progress.advance(self._task)

    def report(self, step: str, test: Evaluated | None, examples: int) -> None:
        """A step (round or epoch) of so many training examples ended, with this test result if it was evaluated."""
        self._examples += examples
        seconds = time.monotonic() - self._began
        result = f"test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}; " if test else ""
        if test:
            self._progress.update(self._task, description=f"accuracy {test.accuracy:.2%}")
        say(f"{step}: {result}{self._examples:,} examples in {seconds:.1f} s, {self._examples / seconds:,.0f} a second")


@contextmanager
def progress(unit: str, total: int) -> Iterator[Bar]:
    """A bar over so many units; lines said meanwhile stand above it."""
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Bar(bar, total)


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a stage or a command. A UserError becomes its lines on stderr and exit status 1, Ctrl-C status 130."""
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
