"""Pages of HTML that need nothing else: styles, scripts and data are inside, and no request leaves them."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# The page of `dvc plots`, which has Vega inside, and its licences.
PLOTS_PAGE = Path(__file__).parents[2] / ".dvc/plots-page.html"
# What figures are drawn in, and what a page has in its place, light or dark.
THEMED = {
    "#6b7280": "var(--note)", "#111827": "var(--ink)", "#444444": "var(--note)", "#000000": "var(--ink)",
    "#d55e00": "var(--vermilion)", "#0072b2": "var(--blue)", "#009e73": "var(--green)", "#cc79a7": "var(--purple)",
    "#e69f00": "var(--orange)", "#56b4e9": "var(--sky)", "#7a7a7a": "var(--grey)", "#f97316": "var(--mistake)",
}  # fmt: skip


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: its file in fedpipe/results/pages.
        content: what the template shows.
    """
    licences, vega = _vega()
    return _environment().get_template(template).render(licences=licences, vega=vega, **content)


def themed(specification: dict[str, Any]) -> Markup:
    """Return a Vega-Lite specification as JSON within a script of a page, in the colours of the page."""
    bare = {key: value for key, value in specification.items() if key not in ("$schema", "title")}
    if "layer" in bare:  # the page says which data they are of
        bare["layer"] = [layer for layer in bare["layer"] if layer["mark"].get("type") != "text"]
    text = json.dumps(bare, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for colour, variable in THEMED.items():
        text = text.replace(f'"{colour}"', f'"{variable}"')
    return Markup(text.replace("<", "\\u003c"))


def subtitle(specification: dict[str, Any]) -> str:
    """Return what a figure says below its title of shapes and dashes; nothing if it says nothing."""
    title = specification.get("title")
    said = title.get("subtitle", "") if isinstance(title, dict) else ""
    return said if isinstance(said, str) else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedpipe.results", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"themed": themed, "subtitle": subtitle}
    environment.globals["included"] = _included
    return environment


def _included(name: str) -> Markup:
    """Return a file of fedpipe/results/pages as it is."""
    return Markup((Path(__file__).parent / "pages" / name).read_text(encoding="utf-8"))


@cache
def _vega() -> tuple[Markup, Markup]:
    """Return the licences of Vega and what it is made of, as a comment, and its script."""
    text = PLOTS_PAGE.read_text(encoding="utf-8")
    licences = text[text.index("Their licences follow.") : text.index("-->")]
    script = re.search(r"<script>\n(.*?)\n</script>", text, re.DOTALL)
    assert script, "tests/test_plots_page.py looks for it"
    return Markup(licences), Markup(script[1])
