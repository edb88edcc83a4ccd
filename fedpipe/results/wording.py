"""Numbers in words and tables, as all pages have them."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import rich.table

NOTHING = "–"
NUMERIC = re.compile(
    r"[<>±+\-–\[]?\s?[\d.,]*\d(e[+-]?\d+)?%?( points)?(\s?[±,(\[].*)?|–|no number|not known|true|false|null"
)


@dataclass(frozen=True)
class Table:
    """Hold a table for a page: text in every cell."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def columns_of_text(self) -> list[bool]:
        """Whether each column holds text rather than numbers, so that it is read from the left."""
        return [any(not NUMERIC.fullmatch(row[place]) for row in self.rows) for place in range(len(self.heads))]

    def as_rich(self) -> "rich.table.Table":
        """Return the table for a terminal."""
        import rich.table
        from rich import box
        from rich.text import Text

        table = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False, title=self.caption, title_justify="left")
        for head, is_text in zip(self.heads, self.columns_of_text, strict=True):
            table.add_column(Text(head), justify="left" if is_text else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def percent(fraction: Any) -> str:
    """Return a fraction in percent, with two decimals."""
    return NOTHING if pd.isna(fraction) else f"{float(fraction):.2%}"


def number(value: Any, decimals: int | None = None) -> str:
    """Return a number: with so many decimals, or else a whole one whole and others with three digits."""
    if value is None or pd.isna(value):
        return NOTHING
    value = float(value)
    if not math.isfinite(value):
        return "no number"
    if decimals is not None:
        return f"{value:,.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def counted(value: Any, unit: str) -> str:
    """Return a number with its unit, in the plural unless it is one."""
    return f"{number(value)} {unit}" if value == 1 else f"{number(value)} {unit}s"


def shown(value: Any) -> str:
    """Return the value of a parameter, as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def thinned(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most so many rows of a table, evenly spaced, the first and the last among them."""
    if len(table) <= most:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, most).round().astype(int))]
