"""Images from elsewhere, brought into the form of those that a model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from fedpipe.serving.trained import Header

LONGEST = 512  # pixels of a photo's longer side: more make no difference to a digit
FAINTEST = 0.1  # of the paper's brightness: ink that is fainter is taken for none
FINEST = 2.0  # pixels: thinner strokes are thickened, since MNIST's are about that wide at least
MODES = {1: "L", 3: "RGB"}  # of PIL, by channels

Grey = np.ndarray
"""Brightness (height, width) float64: 0..255, or ink 0..1."""


@dataclass(frozen=True)
class Handwriting:
    """How a data set of white ink on black places its characters."""

    box: float  # the longer side of a character, as a fraction of the image's
    by_mass: bool  # whether its centre of mass is in the middle, or that of its bounding box


HANDWRITING = {
    # "normalized to fit in a 20x20 pixel box", then centred by mass: LeCun, Cortes & Burges, The MNIST database.
    "MNIST": Handwriting(20 / 28, by_mass=True),
    # A margin of 2 pixels around the bounding box: Cohen et al. 2017, arXiv:1702.05373, section II.
    "EMNIST": Handwriting(24 / 28, by_mass=False),
}
DARK = {"Fashion-MNIST", "KMNIST"}  # whose background is black, but whose images fill the frame


def read(file: Path) -> Image.Image:
    """Return an image upright, 8-bit grey or RGB, with white behind what is transparent. Of several, it is the first.

    Raises:
        OSError: it cannot be read, or is no image.
        ValueError: its pixels have no known brightness, or are too many.
    """
    with Image.open(file) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("its pixels are numbers without a scale (mode F); save it with 8 bits a channel")
    if image.mode.startswith("I"):  # 16 bits
        pixels = np.asarray(image).astype(np.int64)
        return Image.fromarray((pixels.clip(0, 65535) // 257 if pixels.max() > 255 else pixels).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    return image if image.mode in MODES.values() else image.convert("L" if image.mode == "1" else "RGB")


def as_trained(image: Image.Image, header: Header, *, as_is: bool = False) -> tuple[np.ndarray, Sequence[str]]:
    """Bring an image into the form of the images that a model was trained on.

    Args:
        image: as `read` returns it.
        header: the model's.
        as_is: only convert it to the model's channels and scale it to the model's size.

    Returns:
        The pixels (height, width, channels) uint8, and what was done, in words.

    Raises:
        ValueError: no ink is found in it.
    """
    size = header.width, header.height
    steps: list[str] = []
    if image.mode != MODES[header.channels]:
        image = image.convert(MODES[header.channels])  # to grey by ITU-R 601: 0.299 R + 0.587 G + 0.114 B
        steps.append("made grey" if header.channels == 1 else "grey")
    if image.size == size:
        steps.append("not scaled")
    elif as_is:
        steps.append(f"scaled from {image.width} x {image.height}")
        image = image.resize(size, Image.Resampling.BILINEAR)
    else:
        family = header.dataset.split()[0]
        if header.channels == 1 and family in HANDWRITING:
            image, done = _written(image, size, HANDWRITING[family])
        else:
            image, done = _fitted(image, size, header)
        steps += done
    return np.asarray(image).reshape(header.height, header.width, header.channels), steps


def _fitted(image: Image.Image, size: tuple[int, int], header: Header) -> tuple[Image.Image, Sequence[str]]:
    """Scale the middle of an image, in the way in which `download.image_size` does, and tell what was assumed."""
    steps: list[str] = []
    if header.channels == 1 and header.dataset.split()[0] in DARK:
        if _is_light(np.asarray(image, dtype=np.float64)):
            image = ImageOps.invert(image)
            steps.append("inverted")
    elif header.channels == 1:
        steps.append("background assumed to be as in training")
    cropped = image.width * size[1] != image.height * size[0]
    steps.append(f"{'middle' if cropped else 'whole'} scaled from {image.width} x {image.height}")
    return ImageOps.fit(image, size, Image.Resampling.BILINEAR), steps


def _written(image: Image.Image, size: tuple[int, int], form: Handwriting) -> tuple[Image.Image, Sequence[str]]:
    """Find the ink in a photo or a drawing, and place it as the data set does: bright on black.

    Paper is seldom lit evenly; the ink is what is darker than the paper around it, wherever that is.
    """
    photo = image.copy()
    photo.thumbnail((LONGEST, LONGEST), Image.Resampling.BILINEAR, reducing_gap=None)
    grey = np.asarray(photo, dtype=np.float64)
    light = _is_light(grey)
    ink = _ink(grey if light else 255 - grey)
    mask = _strokes(ink)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask, ink = mask[box], ink[box]
    side = form.box * max(size)
    scale = side / max(mask.shape)
    ink = np.where(ndimage.binary_dilation(mask, iterations=2), ink / np.percentile(ink[mask], 75), 0).clip(0, 1)
    steps = ["inverted" if light else "light on dark", "background removed", "cropped to the ink"]
    depths = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))
    width = 4 * depths[depths > 0].mean() * scale  # of a stroke, in whose width the mean depth is a quarter of it
    if width < FINEST:
        ink = ndimage.grey_dilation(ink, footprint=_disc((FINEST - width) / 2 / scale))
        steps.append("thickened")
    fitted = Image.fromarray((ink * 255).round().astype(np.uint8)).resize(
        (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))), Image.Resampling.BOX
    )
    steps.append(f"scaled to {fitted.width} x {fitted.height}")
    placed = Image.new("L", size)
    placed.paste(fitted, _corner(np.asarray(fitted), size, form))
    steps.append("centred by mass" if form.by_mass else "centred")
    return placed, steps


def _is_light(grey: Grey) -> bool:
    """Tell whether the background is light: whether the border is about as bright as the brightest points.

    In between, as where a shadow falls on half of the paper, it tells by what stands out from its surroundings, which
    is a dark stroke or a light one.
    """
    edge = max(1, min(grey.shape) // 20)
    border = np.concatenate([part.ravel() for part in (grey[:edge], grey[-edge:], grey[:, :edge], grey[:, -edge:])])
    darkest, lightest = np.percentile(grey, (0.1, 99.9))
    brightness = (np.median(border) - darkest) / max(1, lightest - darkest)
    if not 0.1 < brightness < 0.75:
        return bool(brightness > 0.5)
    logarithm = np.log1p(ndimage.gaussian_filter(grey, min(grey.shape) / 100))  # in which shadows are steps of one size
    return bool(((logarithm - ndimage.gaussian_filter(logarithm, min(grey.shape) / 10)) ** 3).sum() < 0)


def _ink(paper: Grey) -> Grey:
    """Return how much of its light each point of light paper lacks, 0..1."""
    shorter = min(paper.shape)
    smooth = ndimage.gaussian_filter(paper, shorter / 300)
    # A closing fills what is narrower than its window, such as strokes, and leaves slopes of the lighting.
    window = max(3, shorter // 3)
    lit = ndimage.grey_closing(ndimage.gaussian_filter(paper, shorter / 75), (window, window))
    return (1 - smooth / lit.clip(1)).clip(0, 1)


def _strokes(ink: Grey) -> np.ndarray:
    """Return where there is ink, without specks and what reaches in from the border, such as the table's edge."""
    middle = np.median(ink)
    noise = 1.4826 * np.median(np.abs(ink - middle))  # standard deviation, if it is normal
    faintest = max(float(middle + 6 * noise), FAINTEST)
    labels, areas, longest = _parts(ink > faintest)
    inside = ~np.isin(np.arange(len(areas)), np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    if longest[inside].max(initial=0) >= min(ink.shape) / 20:
        ink = np.where(inside[labels], ink, 0)
    labels, areas, _ = _parts(ink > max(_otsu(ink), faintest))
    if len(areas) == 1:
        raise ValueError("no ink found on an even background; --as-is takes the whole image")
    kept = areas >= 0.03 * areas[1:].max()
    kept[0] = False
    return kept[labels]


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of the connected part that each point is in, 0 for none, and each part's area and length."""
    labels = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, np.ones((3, 3)), labels)
    sides = [[part.stop - part.start for part in box] for box in ndimage.find_objects(labels) if box]
    return labels, np.bincount(labels.ravel()), np.array([0, *map(max, sides)])


def _otsu(ink: Grey) -> float:
    """Return the threshold that parts the values best into two classes. Otsu 1979, doi:10.1109/TSMC.1979.4310076."""
    counts, edges = np.histogram(ink, 256)
    values = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum(), (counts * values).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][np.nanargmax(between)]) if np.isfinite(between).any() else 1.0


def _disc(radius: float) -> np.ndarray:
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    return reach[:, None] ** 2 + reach**2 <= radius**2


def _corner(ink: np.ndarray, size: tuple[int, int], form: Handwriting) -> tuple[int, int]:
    """Return where the left upper corner of a character belongs, which stays within the image whole."""
    height, width = ink.shape
    x, y = width / 2, height / 2
    if form.by_mass:
        x, y = (np.average(np.arange(len(sums)), weights=sums) for sums in (ink.sum(0), ink.sum(1)))
    left, top = round(float(size[0] / 2 - x)), round(float(size[1] / 2 - y))
    return min(max(left, 0), size[0] - width), min(max(top, 0), size[1] - height)
