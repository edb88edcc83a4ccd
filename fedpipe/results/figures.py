"""Pictures, drawn from tables. A figure is a Vega-Lite template in .dvc/plots.

DVC fills the templates for `dvc plots`, and this module fills the same ones for the PNG files: one definition of each
figure serves both.
"""

import os
import resource
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from dvc_render.vega import VegaRenderer
from PIL import Image

from fedpipe.system.errors import UserError
from fedpipe.system.files import replacing

TEMPLATES = Path(".dvc/plots")
SCALE = 2  # pixels of the PNG for each pixel of the template
ADDRESS_SPACE = 100e9  # bytes that the renderer reserves, of which it uses little: with less it aborts
COLOURS = 64  # a tenth of the size of full colour: git keeps every version of a picture

os.environ["FONTCONFIG_FILE"] = str(TEMPLATES / "fonts.conf")  # read once, when the first picture is drawn


def draw(template: str, title: str, table: pd.DataFrame, png: Path, *, lines: str | None = None) -> None:
    """Draw a table with a template of .dvc/plots, as a PNG. Equal tables make equal bytes.

    DVC gives each revision a line and a colour. A PNG shows one revision, so that something else may have them.

    Args:
        template: the template's file name without ".json".
        title: the title of the picture.
        table: has a column for every field that the template names.
        png: the file to write.
        lines: the column whose values have a line and a colour each; None for a template without.

    Raises:
        UserError: a limit on this process leaves the renderer too little address space.
    """
    if lines:
        table = table.assign(rev=table[lines].str.capitalize())
    rows = table.to_dict("records")
    properties = {"template": template, "template_dir": str(TEMPLATES), "title": title}
    specification = VegaRenderer(rows, template, **properties).get_filled_template()
    render(specification, png)


def render(specification: str | dict[str, Any], png: Path, *, colours: int | None = COLOURS) -> None:
    """Draw a Vega-Lite specification, with its data inside, as a PNG. Equal specifications make equal bytes.

    Args:
        specification: as JSON, or as the values in it.
        png: the file to write.
        colours: how many to keep; None keeps all, as where transparent areas lie over each other.

    Raises:
        UserError: as `draw`.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise UserError(
            f"{png}: the renderer reserves {ADDRESS_SPACE / 1e9:.0f} GB of address space, of which it uses little, and "
            f"the limit is {limit / 1e9:.1f} GB; raise it (ulimit -v unlimited), and run it again"
        )
    picture = Image.open(BytesIO(vl_convert.vegalite_to_png(specification, scale=SCALE)))
    with replacing(png) as new:
        picture = picture.convert("RGB")
        (picture.quantize(colours) if colours else picture).save(new, optimize=True)
