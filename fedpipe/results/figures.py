"""Figures, drawn from tables. A figure is a Vega-Lite template in .dvc/plots.

DVC fills the templates for `dvc plots`, and this module fills the same ones for PNG files, pages and papers: one
definition of each figure serves all.
"""

import os
import re
import resource
from collections.abc import Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import vl_convert
from dvc_render.vega import VegaRenderer
from PIL import Image

from fedpipe.system.errors import UserError
from fedpipe.system.files import replacing

TEMPLATES = Path(".dvc/plots")
SCALE = 2  # pixels of the PNG for each pixel of the template
ADDRESS_SPACE = 100e9  # bytes that the renderer reserves, of which it uses little: with less it aborts
COLOURS = 64  # of a PNG: a tenth of the size of full colour, for git keeps every version of a picture
# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
PALETTE = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"]

# Of a figure in a paper: a column is some 3.3 inches wide, and its text has 8 or 9 points.
INCH = 72  # points
POINTS = 8
DOTS = 300  # of a PNG, for each inch
HEIGHT = 0.62  # of a figure's width
ROOM = 12  # points between panels
NARROWEST = 2 * INCH  # panel
MARKS = {"text": {"fontSize": POINTS - 1}, "point": {"size": 16}, "line": {"strokeWidth": 1.1}}
PAPER: dict[str, Any] = {
    "font": "sans-serif",
    "background": "white",
    "axis": {
        "labelFontSize": POINTS - 1, "titleFontSize": POINTS, "titleFontWeight": "normal", "titlePadding": 3,
        "labelPadding": 2, "labelOverlap": True, "labelSeparation": 4, "tickSize": 3, "gridOpacity": 0.35,
        "gridWidth": 0.5, "domainWidth": 0.6, "tickWidth": 0.6, "domainColor": "black", "tickColor": "black",
    },
    "legend": {
        "labelFontSize": POINTS - 1, "titleFontSize": POINTS - 1, "titleFontWeight": "normal", "orient": "bottom",
        "symbolSize": 30, "rowPadding": 1, "columnPadding": 6, "offset": 6, "labelLimit": 0,
    },
    "header": {"labelFontSize": POINTS - 1, "titleFontSize": POINTS, "labelPadding": 2, "labelLimit": 0},
    "view": {"stroke": None},
}  # fmt: skip

Format = Literal["pdf", "svg", "png"]

os.environ["FONTCONFIG_FILE"] = str(TEMPLATES / "fonts.conf")  # read once, when the first picture is drawn


def specification(
    template: str, title: str, table: pd.DataFrame, *, lines: str | None = None, x: str = "", y_label: str = ""
) -> dict[str, Any]:
    """Return a table, drawn with a template of .dvc/plots, as a Vega-Lite specification.

    DVC gives each revision a line and a colour. Here, something else may have them.

    Args:
        template: the template's file name without ".json".
        title: of the figure.
        table: has a column for every field that the template names.
        lines: the column whose values have a line and a colour each, ``rev`` if these are revisions; None for a
            template without.
        x: the column that the figure runs over, for a template that leaves this open.
        y_label: what the values are, for a template that leaves this open.
    """
    if lines and lines != "rev":
        names = table[lines].astype(str)
        table = table.assign(rev=names.str[:1].str.upper() + names.str[1:])
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    properties = {
        "template": template,
        "template_dir": str(_templates()),
        "title": title,
        "x": x or None,
        "y_label": y_label,
    }
    filled = VegaRenderer(rows, template, **properties).get_filled_template()
    domain: list[str] = []
    for encoding in _within(filled, "color"):
        if encoding.get("field") == "rev":
            domain = encoding["scale"]["domain"]
            encoding["scale"]["range"] = [PALETTE[place % len(PALETTE)] for place in range(len(domain))]
    for encoding in _within(filled, "shape"):  # in the same order, so that there is one legend for both
        if encoding.get("field") == "rev":
            encoding["scale"] = {"domain": domain}
    return filled


def draw(template: str, title: str, table: pd.DataFrame, png: Path, *, lines: str | None = None) -> None:
    """Draw a table with a template of .dvc/plots, as a PNG. Equal tables make equal bytes.

    Args:
        template: as in `specification`, like the other arguments.
        title: likewise.
        table: likewise.
        png: the file to write.
        lines: likewise.

    Raises:
        UserError: a limit on this process leaves the renderer too little address space.
    """
    render(specification(template, title, table, lines=lines), png)


def render(specification: str | dict[str, Any], png: Path, *, colours: int | None = COLOURS) -> None:
    """Draw a Vega-Lite specification, with its data inside, as a PNG. Equal specifications make equal bytes.

    Args:
        specification: as JSON, or as the values in it.
        png: the file to write.
        colours: how many to keep; None keeps all, as where transparent areas lie over each other.

    Raises:
        UserError: as `draw`.
    """
    _require_room(png)
    picture = Image.open(BytesIO(vl_convert.vegalite_to_png(specification, scale=SCALE)))
    with replacing(png) as new:
        picture = picture.convert("RGB")
        (picture.quantize(colours) if colours else picture).save(new, optimize=True)


def typeset(specification: dict[str, Any], path: Path, format: Format, width: float) -> None:
    """Draw a Vega-Lite specification for a paper: without a title, in the size and with the type that it prints in.

    Args:
        specification: the values in it.
        path: the file to write.
        format: of the file. A PNG has DOTS pixels for each inch.
        width: inches.

    Raises:
        UserError: as `draw`.
    """
    _require_room(path)
    set_for_paper = for_paper(specification, width * INCH)
    match format:
        case "pdf":
            content = vl_convert.vegalite_to_pdf(set_for_paper)
        case "png":
            content = vl_convert.vegalite_to_png(set_for_paper, scale=DOTS / INCH, ppi=INCH)
        case "svg":
            text = vl_convert.vegalite_to_svg(set_for_paper)
            # In points, so that it is included in its size: a pixel of a browser is no point.
            text = re.sub(r'(<svg[^>]*? width="[\d.]+)(" height="[\d.]+)"', r'\1pt\2pt"', text, count=1)
            content = text.encode()
    with replacing(path) as new:
        new.write_bytes(content)


def for_paper(specification: dict[str, Any], width: float) -> dict[str, Any]:
    """Return a Vega-Lite specification in a paper's style, with the data inside.

    Args:
        specification: the values in it.
        width: points, of the whole figure.
    """
    spec = deepcopy(specification)
    own = spec.get("config", {})
    spec["config"] = {
        key: {**own.get(key, {}), **value} if isinstance(value, dict) else value for key, value in PAPER.items()
    }
    title = spec.pop("title", None)
    subtitle = title.get("subtitle") if isinstance(title, dict) else None
    if isinstance(subtitle, str):  # which says what shapes and dashes mean
        spec["title"] = {
            "text": subtitle, "fontSize": POINTS - 1, "fontWeight": "normal", "anchor": "start", "offset": 4,
        }  # fmt: skip
    spec["padding"] = 2
    for mark in _within(spec, "mark"):
        mark |= MARKS.get(str(mark.get("type")), {})
    for header in _within(spec, "header"):
        header["labelFontSize"] = POINTS - 1
    if "facet" not in spec:
        spec |= {"width": width, "height": HEIGHT * width, "autosize": {"type": "fit-x", "contains": "padding"}}
        return spec
    panel, spec["spacing"] = spec["spec"], ROOM
    shape = panel["height"] / panel["width"]
    columns = spec["columns"] = max(1, min(spec.get("columns", 1), _panels(spec), int(width // NARROWEST)))
    each = width / columns - 2 * ROOM
    for _ in range(2):  # Vega fits no figure of several panels into a width; the room that axes take is seen when drawn
        panel |= {"width": each, "height": shape * each}
        drawn = re.search(r'<svg[^>]*? width="([\d.]+)"', vl_convert.vegalite_to_svg(spec))
        assert drawn, "an SVG has a width"
        each += (width - float(drawn[1])) / columns
    panel |= {"width": each, "height": shape * each}
    return spec


def _panels(spec: Mapping[str, Any]) -> int:
    """Return how many panels a figure has: one for each value of its field, or for each training if it is computed."""
    facet: Mapping[str, Any] = spec["facet"].get("facet", spec["facet"])
    data, named = spec["data"], spec.get("datasets", {})
    rows = data["values"] if "values" in data else named[data["name"]]
    field = str(facet["field"])
    by = [field] if any(field in row for row in rows) else ["rev", "method"]
    return max(1, len({tuple(row.get(name) for name in by) for row in rows}))


def _templates() -> Path:
    """Return the folder of the project's templates, or of fedpipe's own where there are none, as in another folder."""
    return TEMPLATES if TEMPLATES.is_dir() else Path(__file__).parents[2] / TEMPLATES


def _require_room(path: Path) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise UserError(
            f"{path}: the renderer reserves {ADDRESS_SPACE / 1e9:.0f} GB of address space, of which it uses little, "
            f"and the limit is {limit / 1e9:.1f} GB; raise it (ulimit -v unlimited), and run it again"
        )


def _within(value: Any, key: str) -> list[dict[str, Any]]:
    """Return the mappings under a key, wherever in a specification."""
    found = []
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key and isinstance(item, dict):
                found.append(item)
            if name != "values":
                found += _within(item, key)
    elif isinstance(value, list):
        for item in value:
            found += _within(item, key)
    return found
