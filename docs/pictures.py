"""Draw the pictures of docs/partitions.md: the project's own partitions of MNIST's sample.

python -m docs.pictures
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import altair
import numpy as np
import pandas as pd
import torch
import vl_convert
from PIL import Image

from fedpipe.data.datasets import Split
from fedpipe.data.partition.settings import Partition
from fedpipe.data.sources import offline_sample
from fedpipe.data.store import label_counts
from fedpipe.results.figures import COLOURS, SCALE

FOLDER = Path(__file__).parent / "images" / "partitions"
CLIENTS, SEED, CLASSES = 10, 42, 10

# Of each picture of label counts its file and the parameters of `partition`.
COUNTED: dict[str, dict[str, Any]] = {
    "iid": {"scheme": "iid"},
    "shards": {"scheme": "shards"},
    "classes": {"scheme": "classes"},
    "classes-random": {"scheme": "classes", "classes": {"holders": "random"}},
    "dirichlet-0.5": {"scheme": "dirichlet", "dirichlet": {"alpha": 0.5}},
    "dirichlet-0.1": {"scheme": "dirichlet", "dirichlet": {"alpha": 0.1}},
    "inner-dirichlet-0.5": {"scheme": "inner-dirichlet", "inner-dirichlet": {"alpha": 0.5}},
    "inner-dirichlet-5": {"scheme": "inner-dirichlet", "inner-dirichlet": {"alpha": 5.0}},
    "quantity": {"scheme": "quantity"},
    "quantity-power-law": {"scheme": "quantity", "quantity": {"law": "power-law"}},
    "quantity-dirichlet": {"scheme": "quantity", "quantity": {"law": "dirichlet"}},
    "dirichlet-0.5-quantity": {"scheme": "dirichlet+quantity", "dirichlet": {"alpha": 0.5}},
}

# Of each picture of images its file, the parameters of `feature`, and the clients whose images it shows.
SHOWN: dict[str, tuple[dict[str, float], tuple[int, ...]]] = {
    "feature": ({}, (0, 1, 2, 3, 4, 5)),
    "feature-noise": ({"rotation": 0.0, "noise": 0.0, "contrast": 0.0, "increasing_noise": 0.1}, (0, 3, 6, 9)),
}


def partition(parameters: dict[str, Any]) -> Partition:
    """Return a partition among the pictures' clients."""
    return Partition.model_validate({"clients": CLIENTS, **parameters})


def counts(parameters: dict[str, Any], train: Split) -> np.ndarray:
    """Return (clients, classes): how many examples of each label each client gets."""
    labels = train.labels.numpy()
    return label_counts(partition(parameters).assign(labels, SEED), labels, CLASSES)


def bars(table: np.ndarray) -> Image.Image:
    """Draw a bar for each client, divided by label."""
    rows = pd.DataFrame(table).rename_axis("client").reset_index().melt("client", var_name="label", value_name="n")
    chart = (
        altair.Chart(rows, width=230, height=150)
        .mark_bar(stroke="white", strokeWidth=0.3)
        .encode(
            y=altair.Y("client:O", title="client"),
            x=altair.X("sum(n):Q", title="training examples", axis=altair.Axis(tickCount=5, gridOpacity=0.5)),
            color=altair.Color("label:O", title="label", scale=altair.Scale(scheme="tableau10")),
            order=altair.Order("label:O"),
        )
        .configure(font="sans-serif")
    )
    png = vl_convert.vegalite_to_png(chart.to_dict(), scale=SCALE)
    return Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS)


def appearances(parameters: dict[str, float], clients: tuple[int, ...], train: Split) -> Image.Image:
    """Draw ten digits as clients see them under feature skew: a row for each client."""
    digits = torch.stack([train.images[train.labels == label][0] for label in range(CLASSES)])
    shown = partition({"scheme": "feature", "feature": parameters})
    rows = [torch.cat([*shown.appearance(digits, client, SEED)], dim=1).squeeze(-1) for client in clients]
    picture = Image.fromarray(torch.cat(rows).numpy())
    return picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST)


def pictures() -> dict[str, Image.Image]:
    """Return all pictures by their file names."""
    train = offline_sample().train
    drawn = {f"{name}.png": bars(counts(parameters, train)) for name, parameters in COUNTED.items()}
    return drawn | {f"{name}.png": appearances(*shown, train) for name, shown in SHOWN.items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(FOLDER / name, optimize=True)
