"""Read a data set of the user's own: images in folders, or arrays in a file. data/own/README.md tells users how."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from fedpipe.data.datasets import Split
from fedpipe.system import console
from fedpipe.system.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
GREY, COLOUR = {"1", "L"}, {"P", "RGB"}  # modes of PIL
TOLD = 20  # mistakes, at most
LAYOUTS = "a folder for each class, or a folder for each client with a folder for each class in it"


@dataclass(frozen=True)
class Found:
    """What was found: examples, and the names of their classes and clients."""

    name: str
    class_names: tuple[str, ...]
    client_names: tuple[str, ...]
    train: Split
    test: Split | None  # None if it has no test set of its own


def read(path: Path, size: int | None = None) -> Found:
    """Read a data set.

    Args:
        path: a folder, or an .npz or .safetensors file.
        size: crop images of a folder to their middle square, and scale them to this height and width; None keeps them.

    Raises:
        UserError: a line for each thing that is wrong.
    """
    if path.is_dir():
        return _folder(path, size)
    if not path.exists():
        raise UserError(f"{path}: not there; it must be a folder, or an .npz or .safetensors file")
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path}: neither a folder nor an .npz or .safetensors file")
    if size is not None:
        raise UserError(f"download.image_size: {size}, but the arrays in {path} are taken as they are; leave it empty")
    return _arrays(path)


# Folders


@dataclass(frozen=True)
class _Place:
    file: Path
    label: str
    client: str  # "" if there are none


def _folder(path: Path, size: int | None) -> Found:
    divided = [path / part for part in ("train", "test")]
    if all(part.is_dir() for part in divided):
        train, test = (_places(part) for part in divided)
    else:
        train, test = _places(path), []
    by_client = {bool(place.client) for place in train}
    if len(by_client) > 1:
        raise UserError(f"{path}: images lie at different depths; it must have {LAYOUTS}")
    class_names = sorted({place.label for place in train})
    if unknown := sorted({place.label for place in test} - set(class_names)):
        raise UserError(f"{path}/test: no training images of the class {', '.join(unknown)}")
    if len(class_names) < 2:
        raise UserError(f"{path}: one class, {class_names[0]}; there must be at least 2, each a folder")
    client_names = sorted({place.client for place in train}) if by_client == {True} else []
    images = _images([*train, *test], size)
    labels = torch.tensor([class_names.index(place.label) for place in [*train, *test]])
    owners = torch.tensor([client_names.index(place.client) for place in train]) if client_names else None
    n = len(train)
    return Found(
        path.name,
        tuple(class_names),
        tuple(client_names),
        Split(images[:n], labels[:n], owners),
        Split(images[n:], labels[n:]) if test else None,
    )


def _places(root: Path) -> list[_Place]:
    """Return where the images are, in the order of their names: root/class/image, or root/client/class/image."""
    found = []
    for file in sorted(root.rglob("*")):
        *folders, name = file.relative_to(root).parts
        if not file.is_file() or name.startswith(".") or (not folders and name.endswith((".md", ".dvc"))):
            continue
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{file}: no image; only images may lie there, such as .png and .jpg")
        if len(folders) not in (1, 2):
            raise UserError(f"{file}: lies too {'high' if not folders else 'deep'}; {root} must have {LAYOUTS}")
        found.append(_Place(file, folders[-1], folders[0] if len(folders) == 2 else ""))
    if not found:
        raise UserError(f"{root}: no images; it must have {LAYOUTS}")
    return found


def _images(places: list[_Place], size: int | None) -> torch.Tensor:
    """Return the images (n, height, width, channels) uint8: grey ones if all are, else red, green and blue."""
    images: list[Image.Image] = []
    mistakes: list[str] = []
    with console.progress("images", len(places)) as bar:
        for place in places:
            try:
                images.append(_image(place.file, size))
            except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
                reason = "no image, or damaged" if isinstance(error, UnidentifiedImageError) else str(error)
                mistakes.append(f"{place.file}: {' '.join(reason.split())}")
            bar.advance()
    if images and not mistakes:
        sizes = [image.size for image in images]
        usual = max(set(sizes), key=sizes.count)
        mistakes = [
            f"{place.file}: {image.width} x {image.height} pixels, and most are {usual[0]} x {usual[1]}; "
            "download.image_size scales them all"
            for place, image in zip(places, images, strict=True)
            if image.size != usual
        ]
    if mistakes:
        more = [f"and {len(mistakes) - TOLD} images more"] if len(mistakes) > TOLD else []
        raise UserError("\n".join(mistakes[:TOLD] + more))
    mode = "L" if all(image.mode in GREY for image in images) else "RGB"
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images])
    return torch.from_numpy(arrays if arrays.ndim == 4 else arrays[..., None])


def _image(file: Path, size: int | None) -> Image.Image:
    """Return an image upright, scaled if a size is given.

    Raises:
        ValueError: it is of a kind that would lose something.
    """
    with Image.open(file) as image:
        if image.mode not in GREY | COLOUR:
            raise ValueError(f"an image of mode {image.mode}; save it as 8-bit grey or RGB, without transparency")
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{getattr(image, 'n_frames', 1)} images in one file; save them one by one")
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode in ("1", "P"):
        upright = upright.convert("L" if upright.mode == "1" else "RGB")
    return upright if size is None else ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)


# Arrays in a file


def _arrays(path: Path) -> Found:
    arrays = _loaded(path)
    if missing := {"images", "labels"} - set(arrays):
        raise UserError(f"{path}: no array {sorted(missing)[0]}; it must hold images and labels")
    known = {"images", "labels", "clients", "test_images", "test_labels"}
    if unknown := sorted(set(arrays) - known):
        raise UserError(f"{path}: unknown array {unknown[0]}; known: {', '.join(sorted(known))}")
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise UserError(f"{path}: test_images and test_labels come together")
    train = _examples(path, arrays, "")
    test = _examples(path, arrays, "test_") if "test_images" in arrays else None
    owners: Mapping[str, Any] = {}
    client_names: tuple[str, ...] = ()
    if "clients" in arrays:
        if arrays["clients"].shape != arrays["labels"].shape:
            raise UserError(f"{path}: clients are {_shaped(arrays['clients'])}, and must be like the labels")
        names, numbers = np.unique(arrays["clients"], return_inverse=True)
        client_names, owners = tuple(map(str, names)), {"owners": torch.from_numpy(numbers.astype(np.int64))}
    highest = max(int(part.labels.max()) for part in (train, test) if part)
    if not highest:
        raise UserError(f"{path}: one class; there must be at least 2")
    if test and test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(f"{path}: test_images are {_shaped(arrays['test_images'])}, unlike the images")
    return Found(
        path.stem,
        tuple(map(str, range(highest + 1))),
        client_names,
        Split(train.images, train.labels, **owners),
        test,
    )


def _loaded(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        from safetensors.numpy import load_file

        return load_file(path)
    except Exception as error:  # of any kind: they come from the format's own reader
        if isinstance(error, (OSError, ValueError, zipfile.BadZipFile)) or type(error).__name__ == "SafetensorError":
            raise UserError(f"{path}: not a readable {path.suffix} file: {' '.join(str(error).split())}") from None
        raise


def _examples(path: Path, arrays: Mapping[str, np.ndarray], part: str) -> Split:
    images, labels = arrays[f"{part}images"], arrays[f"{part}labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{path}: {part}images are {_shaped(images)}, and must be (n, height, width) or "
            "(n, height, width, channels) uint8"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 999:
        raise UserError(f"{path}: {part}labels are {_shaped(labels)}, and must be ({len(images)},) of 0 to 999")
    images = images if images.ndim == 4 else images[..., None]
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


def _shaped(array: np.ndarray) -> str:
    return f"{tuple(array.shape)} {array.dtype}"
