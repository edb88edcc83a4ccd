"""Pictures of a study: the mean over seeds, with a band of its 95 % interval, over rounds or over what was sent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import altair as alt
import pandas as pd

from fedpipe.studies.records import SIDES, Record
from fedpipe.studies.statistics import summarise
from fedpipe.studies.study import Figure

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; black last. Beyond, shapes differ.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#000000"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
TITLES = {
    "accuracy": "test accuracy",
    "loss": "test loss",
    "rounds": "round",
    "megabytes": "megabytes, down and up",
    "megabytes up": "megabytes, up",
    "megabytes down": "megabytes, down",
}
WAYS = {"megabytes up": "up", "megabytes down": "down"}  # that are counted; both for others
WIDTH, HEIGHT = 340, 260
WIDE = 50  # times the least that was sent
FEW = 4  # lines, whose bands can be told apart


def chart(
    figure: Figure, question: str, about: str, axes: Mapping[str, Sequence[str]], records: Sequence[Record]
) -> dict[str, Any]:
    """Return a picture as a Vega-Lite specification.

    Args:
        figure: its layout.
        question: that the study answers.
        about: what all the runs have in common, in words.
        axes: the labels of each axis's settings, in order.
        records: the runs.
    """
    lines, panels = axes[figure.lines], axes[figure.panels] if figure.panels else [""]
    table = pd.DataFrame(_points(figure, lines, panels, records))
    if figure.measure == "epsilon" and not table.empty:
        lines = [line for line in lines if line in set(table["line"])]  # those that have one
    diverged = [
        f"{line}{f' on {panel}' if panel else ''}: {number} of {of} runs diverged, and are left out"
        for panel in panels
        for line in lines
        for number, of in [_diverged(_of(figure, line, panel, records))]
        if number
    ]
    caption = [about, "mean over seeds, and its 95 % interval", *diverged]
    scale = {"domain": lines, "range": [COLOURS[place % len(COLOURS)] for place in range(len(lines))]}
    shapes = {"domain": lines, "range": [SHAPES[place // len(COLOURS) % len(SHAPES)] for place in range(len(lines))]}
    whole = alt.Axis(format="d" if figure.over == "rounds" else ",.4~g", tickCount=6)
    fraction = alt.Axis(format=".0%" if figure.measure == "accuracy" else ",.3~g")
    shown = ".2%" if figure.measure == "accuracy" else ",.4~g"
    on = " and ".join(dict.fromkeys(record.evaluated_on for record in records))
    title = "epsilon, by the PLD accountant" if figure.measure == "epsilon" else f"{on} {figure.measure}"
    # Logarithmic where some send many times what others do, so that these are no heap at the left.
    sent = [] if figure.over == "rounds" or table.empty else table["x"].tolist()
    scale_type = "log" if sent and max(sent) > WIDE * min(sent) else "linear"
    x = alt.X("x:Q", title=TITLES[figure.over], axis=whole).scale(type=scale_type, nice=False)
    y = alt.Y("mean:Q", title=title, axis=fraction).scale(zero=False)
    colour = alt.Color("line:N", title=figure.lines, scale=alt.Scale(**scale), sort=lines)
    base = alt.Chart().encode(x=x, color=colour)
    layers = alt.layer(
        base.mark_area(opacity=0.15 if len(lines) <= FEW else 0.06).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        base.mark_point(filled=True, size=28, opacity=1)
        .encode(
            y=y,
            shape=alt.Shape("line:N", title=figure.lines, scale=alt.Scale(**shapes), sort=lines),
            tooltip=[
                alt.Tooltip("line:N", title=figure.lines),
                alt.Tooltip("x:Q", title=TITLES[figure.over], format=",.4~g"),
                alt.Tooltip("mean:Q", title=f"mean {title}", format=shown),
                alt.Tooltip("low:Q", format=shown),
                alt.Tooltip("high:Q", format=shown),
            ],
        )
        .add_params(alt.selection_interval(name="grid", bind="scales")),
    ).properties(width=WIDTH, height=HEIGHT)
    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold")
    picture = (
        alt.layer(*layers.layer, data=table)
        .properties(width=WIDTH, height=HEIGHT)
        .facet(facet=alt.Facet("panel:N", sort=panels, header=header), columns=2)
        .resolve_scale(y="independent")
        if figure.panels
        else alt.layer(*layers.layer, data=table).properties(width=2 * WIDTH, height=int(1.5 * HEIGHT))
    )
    heading = alt.TitleParams(
        question, subtitle=caption, anchor="start", fontSize=15, subtitleColor="#444444", offset=12
    )
    return (
        picture.properties(title=heading)
        .configure(font="sans-serif")
        .configure_axis(gridOpacity=0.5)
        .configure_legend(symbolOpacity=1)
        .to_dict()
    )


def _points(
    figure: Figure, lines: Sequence[str], panels: Sequence[str], records: Sequence[Record]
) -> Iterator[dict[str, Any]]:
    """Yield a point for each line, panel and round that all its runs evaluated; diverged runs are left out."""
    most = 1.0 if figure.measure == "accuracy" else math.inf  # beyond which an interval need not go
    for panel in panels:
        for line in lines:
            runs = [record for record in _of(figure, line, panel, records) if record.state == "done"]
            curves = [dict(record.curve(record.evaluated_on, figure.measure)) for record in runs]
            sent = [_sent(record, figure.over) for record in runs]
            for number in curves[0] if curves else ():
                if all(number in curve for curve in curves):
                    summary = summarise([curve[number] for curve in curves])
                    x = number if figure.over == "rounds" else sum(one[number] for one in sent) / len(sent)
                    low, high = (summary.mean if end is None else end for end in (summary.low, summary.high))
                    low, high = max(0.0, low or 0.0), min(most, high or 0.0)
                    yield {"panel": panel, "line": line, "x": x, "mean": summary.mean, "low": low, "high": high}


def _of(figure: Figure, line: str, panel: str, records: Sequence[Record]) -> list[Record]:
    return [
        record
        for record in records
        if record.labels[figure.lines] == line and (not figure.panels or record.labels[figure.panels] == panel)
    ]


def _diverged(records: Sequence[Record]) -> tuple[int, int]:
    return sum(record.state == "diverged" for record in records), len(records)


def _sent(record: Record, over: str) -> dict[int, float]:
    """Return the megabytes that were sent until the end of each round, the way that the picture is over."""
    sides = SIDES[WAYS.get(over, "both")]
    each = (sum(row[side] or 0 for side in sides) for row in record.rounds)
    return {int(row["round"] or 0): total / 1e6 for row, total in zip(record.rounds, accumulate(each), strict=True)}
