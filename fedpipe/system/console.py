"""What people see while a stage or a command runs: lines, a progress bar, and one line for a mistake of theirs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedpipe.system.errors import UserError

console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line as it is, above the progress bar if there is one."""
    console.print(line, markup=False)


class Evaluated(Protocol):
    """The test result of a model, as a line of progress shows it."""

    @property
    def accuracy(self) -> float: ...
    @property
    def loss(self) -> float: ...


class Bar:
    """Show the progress of a training: a bar with the time left, and a line for each step.

    The bar is drawn on a terminal only. `progress` makes it.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._began = time.monotonic()
        self._examples = 0

    def advance(self, count: int = 1) -> None:
        """Move the bar on by this many units of its total."""
        self._progress.advance(self._task, count)

    def report(self, step: str, test: Evaluated | None, examples: int) -> None:
        """Print a line about a step that ended.

        Args:
            step: its name, such as ``round 3``.
            test: the model's test result after it, or None if it was not evaluated.
            examples: the training examples that it processed.
        """
        self._examples += examples
        seconds = time.monotonic() - self._began
        result = f"test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}; " if test else ""
        if test:
            self._progress.update(self._task, description=f"accuracy {test.accuracy:.2%}")
        say(f"{step}: {result}{self._examples:,} examples in {seconds:.1f} s, {self._examples / seconds:,.0f} a second")


@contextmanager
def progress(unit: str, total: int) -> Iterator[Bar]:
    """Show a progress bar while the block runs. Lines printed with `say` meanwhile stand above it.

    Args:
        unit: what the bar counts, such as ``epochs``.
        total: how many of them there are.
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
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Bar(bar, total)


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage or a command, and exit.

    The exit status is 0 if it succeeds, 1 after a UserError, whose lines go to stderr, and 130 after Ctrl-C. Any other
    exception is a bug and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
