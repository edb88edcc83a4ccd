"""Pictures, from tables alone. A figure is a Vega-Lite template in .dvc/plots, which DVC fills for `dvc plots` and
this module for the PNG: one definition, two ways to look at it.
"""

import os
from io import BytesIO
from pathlib import Path

import pandas as pd
import vl_convert
from dvc_render.vega import VegaRenderer
from PIL import Image

from fedpipe.files import replacing, write_text

TEMPLATES = Path(".dvc/plots")
SCALE = 2  # device pixels a unit
COLOURS = 64

os.environ["FONTCONFIG_FILE"] = str(TEMPLATES / "fonts.conf")  # read once, when the first picture is drawn


def draw(template: str, title: str, table: pd.DataFrame, png: Path) -> None:
    """Fills .dvc/plots/`template`.json with the table's rows and writes it as a picture."""
    rows = table.to_dict("records")
    properties = {"template": template, "template_dir": str(TEMPLATES), "title": title}
    specification = VegaRenderer(rows, template, **properties).get_filled_template()
    picture = Image.open(BytesIO(vl_convert.vegalite_to_png(specification, scale=SCALE)))
    with replacing(png) as new:
        picture.convert("RGB").quantize(COLOURS).save(
            new, optimize=True
        )  # a tenth of the size: git keeps every version


def write_plots_page(path: Path) -> None:
    """The page that `dvc plots` fills, with the scripts inside: it draws with no network.

    `plots.html_template` in .dvc/config names it. DVC's own page loads the scripts from the web.
    """
    write_text(path, _PAGE.replace("SCRIPTS", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>fedpipe</title>
<script>
(() => { SCRIPTS })();
</script>
<style>
body { font-family: sans-serif; margin: 2em; }
body > div { display: inline-block; margin: 0 2em 2em 0; vertical-align: top; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""
