"""What a model takes images for: probabilities for every class, as a table or as JSON."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich import box
from rich.table import Table
from rich.text import Text

from fedpipe.data.own import SUFFIXES
from fedpipe.serving import images
from fedpipe.serving.trained import Trained
from fedpipe.system.errors import UserError
from fedpipe.training.evaluation import CHUNK
from fedpipe.training.images import normalised

SHOWN = 3  # classes of an image in the table
BAR = 16  # columns of a probability of 1
EIGHTHS = " ▏▎▍▌▋▊▉█"

OnProblem = Callable[[str], None]
"""Told of an image that cannot be used, in a line that names it."""


@dataclass(frozen=True)
class Prediction:
    """What an image is taken for."""

    file: Path
    steps: Sequence[str]  # that brought it into the form of the images in training, in words
    probabilities: dict[str, float]  # by class, the most probable first

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        best, probability = next(iter(self.probabilities.items()))
        return {
            "image": str(self.file),
            "class": best,
            "probability": probability,
            "probabilities": self.probabilities,
            "preprocessing": list(self.steps),
        }


def predict(
    model: Trained, paths: Iterable[Path], *, as_is: bool = False, on_problem: OnProblem
) -> Iterator[Prediction]:
    """Yield what images are taken for, in their order, without those that cannot be used.

    Args:
        model: what decides.
        paths: of images, or of folders, which stand for the images in them.
        as_is: only convert images to the model's channels and scale them to its size, whatever they show.
        on_problem: see `OnProblem`.

    Raises:
        UserError: the model takes images with other channels than grey or red, green and blue, or gives no numbers.
    """
    header = model.header
    if header.channels not in images.MODES:
        raise UserError(f"the model takes images of {header.channels} channels; images from files have 1 or 3")
    network = model.network()
    prepared = _prepared(model, paths, as_is, on_problem)
    while chunk := list(islice(prepared, CHUNK)):  # as many together as in an evaluation, so that bits are the same
        pixels = torch.from_numpy(np.stack([pixels for _, pixels, _ in chunk]))
        with torch.inference_mode():
            rows = network(normalised(pixels, header.spec)).double().softmax(1)
        if not rows.isfinite().all():
            raise UserError("the model gives no numbers: its training has diverged; train it anew")
        for (file, _, steps), row in zip(chunk, rows, strict=True):
            order = row.argsort(descending=True, stable=True).tolist()
            yield Prediction(file, steps, {header.class_names[label]: row[label].item() for label in order})


def as_table(predictions: Iterable[Prediction]) -> Table:
    """Return a table with the most probable classes of each image, and what was done with it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("image", overflow="fold", ratio=3)
    table.add_column("class", overflow="fold", ratio=2)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR)
    table.add_column("what was done", ratio=4)
    for one in predictions:
        best = list(one.probabilities.items())[:SHOWN]
        table.add_row(
            Text(str(one.file)),
            Text("\n".join(name for name, _ in best)),
            "\n".join(f"{probability:.2%}" for _, probability in best),
            "\n".join(_bar(probability) for _, probability in best),
            ", ".join(one.steps),
        )
    return table


def _prepared(
    model: Trained, paths: Iterable[Path], as_is: bool, on_problem: OnProblem
) -> Iterator[tuple[Path, np.ndarray, Sequence[str]]]:
    for file in _files(paths, on_problem):
        try:
            yield file, *images.as_trained(images.read(file), model.header, as_is=as_is)
        except FileNotFoundError:
            on_problem(f"{file}: not there")
        except UnidentifiedImageError:
            on_problem(f"{file}: no image, or damaged")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            on_problem(f"{file}: {' '.join((reason or str(error)).split())}")


def _files(paths: Iterable[Path], on_problem: OnProblem) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
        if not found:
            on_problem(f"{path}: no images in this folder, such as .png and .jpg")
        yield from found


def _bar(probability: float) -> str:
    eighths = round(probability * BAR * 8)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
