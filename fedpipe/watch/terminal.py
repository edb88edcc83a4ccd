"""What runs in a folder, in a terminal: drawn anew each second; elsewhere a line for each change."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fedpipe.system.errors import naming
from fedpipe.watch.state import Stage, State, clock, look

PERIOD = 1.0  # seconds from one look to the next
WIDEST, HIGHEST = 100, 18  # columns and lines of a curve
BRAILLE, DOTS = 0x2800, ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of Unicode: none, and each
ENDS = "Ctrl-C ends this"

console = Console(highlight=False, force_jupyter=False)  # that of stages does not wrap lines, which drawing needs


def watch(folder: Path) -> None:
    """Show what runs in a folder, until Ctrl-C.

    Args:
        folder: see `fedpipe.watch.state.look`.

    Raises:
        UserError: there is no such folder.
    """
    state, told = look(folder), ""
    over = {stage.key for stage in state.stages if not stage.runs}  # which is no news
    drawn = Live(console=console, auto_refresh=False, vertical_overflow="crop") if _draws() else None
    with drawn or nullcontext():
        while True:
            for stage in reversed(state.stages):
                if not stage.runs and stage.key not in over:
                    _say(f"{clock(time.time())} {stage.outcome}")
                    over.add(stage.key)
            if drawn:
                drawn.update(view(state, console.width, console.height), refresh=True)
            elif (change := _change(state)) != told:
                _say(f"{change}; {state.running.pace}" if state.running else f"{change}; waiting for a stage; {ENDS}")
                told = change
            time.sleep(PERIOD)
            state = look(folder)


def show(folder: Path) -> None:
    """Show once what runs in a folder.

    Args:
        folder: see `fedpipe.watch.state.look`.

    Raises:
        UserError: there is no such folder.
    """
    state = look(folder)
    if _draws():
        console.print(view(state, console.width, console.height, stays=True))
    else:
        for line in lines(state):
            _say(line)


def lines(state: State) -> list[str]:
    """Return what there is to say of a state."""
    stage = state.running
    if stage is None:
        return [state.idle, *([f"last: {state.last.outcome}"] if state.last else [])]
    status = stage.status
    percent = "" if stage.fraction is None else f" ({stage.fraction:.0%})"
    where = f"process {status.process}" if stage.here else f"process {status.process} on {status.machine}"
    heard = f"last heard of at {clock(status.changed)}; this machine cannot tell whether it runs"
    also = f"also running: {', '.join(state.also)}" if state.also else ""
    return [
        f"{status.stage}, since {clock(status.began)}, {where}: {stage.progress}{percent}",
        stage.pace,
        stage.result,
        *filter(None, [stage.missing, "" if stage.here else heard, also]),
    ]


def view(state: State, width: int, height: int, *, stays: bool = False) -> RenderableType:
    """Return what a terminal shows of a state.

    Args:
        state: to be shown.
        width: columns of the terminal.
        height: its lines.
        stays: whether it is printed once, and not drawn anew until Ctrl-C.
    """
    told, stage = [Text(line) for line in lines(state)], state.running
    end = [] if stays else [Text(ENDS if stage else f"waiting for a stage; {ENDS}", style="dim")]
    if stage is None:
        return Group(*told, *end)
    told[0].stylize("bold", 0, len(stage.status.stage))
    bar = [] if stage.fraction is None else [Text(_bar(stage.fraction, min(width, WIDEST)), style="cyan")]
    used = sum(len(line.wrap(console, width)) for line in [*told, *bar, *end]) + 2  # its title, and a line left free
    return Group(told[0], *bar, *told[1:], *_curve(stage, min(width, WIDEST), min(height - used, HIGHEST)), *end)


def plot(points: Sequence[tuple[float, float]], width: int, height: int) -> list[str]:
    """Draw a curve with the dots of Braille's letters, two by four in a letter, and its axes.

    Args:
        points: (x, y), x ascending; at least one.
        width: columns, axes included.
        height: lines, likewise; at least 4.

    Returns:
        The lines. The first and last of the curve's own have the largest and smallest y beside them, as percentages.
    """
    (low, high), (first, last) = _ends([y for _, y in points]), _ends([x for x, _ in points])
    labels = [f"{high:.2%}", f"{low:.2%}"] if high > low else [f"{high:.2%}"]
    margin = max(map(len, labels))
    columns, rows = width - margin - 2, height - 2
    cells = [[0] * columns for _ in range(rows)]
    across, down, right, bottom = (last - first) or 1, (high - low) or 1, 2 * columns - 1, 4 * rows - 1
    at = [(round((x - first) / across * right), round((high - y) / down * bottom)) for x, y in points]
    for x, y in _joined(at):
        cells[y // 4][x // 2] |= DOTS[x % 2][y % 4]
    beside = [labels[0], *[""] * (rows - 1 - len(labels[1:])), *labels[1:]]
    lines = ["".join(chr(BRAILLE + dots) if dots else " " for dots in row).rstrip() for row in cells]
    start, end = f"{first:,g}", f"{last:,g}" if last > first else ""
    return [
        *(f"{label:>{margin}} {'┤' if label else '│'}{line}" for label, line in zip(beside, lines, strict=True)),
        f"{'':{margin}} └{'─' * columns}",
        f"{'':{margin}}  {start}{end:>{columns - len(start)}}",
    ]


def _curve(stage: Stage, width: int, height: int) -> list[Text]:
    """Return the curve of a stage, with a title; nothing where there is none yet, or no room."""
    if len(stage.curve) < 2 or height < 5 or width < 30 or console.options.ascii_only:
        return []
    return [Text(f"{stage.data} accuracy by {stage.status.unit}"), *map(Text, plot(stage.curve, width, height))]


def _bar(fraction: float, width: int) -> str:
    full, empty = ("#", "-") if console.options.ascii_only else ("█", "░")
    done = int(fraction * width)
    return full * done + empty * (width - done)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _joined(points: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the points, and those on straight lines between them."""
    yield points[0]
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(abs(to_x - x), abs(to_y - y), 1)
        for step in range(1, steps + 1):
            yield x + round((to_x - x) * step / steps), y + round((to_y - y) * step / steps)


def _change(state: State) -> str:
    """Say what changes with each step, and not in between."""
    stage = state.running
    if stage is None:
        return state.idle
    return "; ".join(filter(None, [f"{stage.status.stage}: {stage.progress}", stage.result, stage.missing]))


def _draws() -> bool:
    """Whether output is a terminal that can be drawn on."""
    return console.is_terminal and not console.is_dumb_terminal


def _say(line: str) -> None:
    """Print a line as it is, above what is drawn."""
    with naming("standard output"):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
