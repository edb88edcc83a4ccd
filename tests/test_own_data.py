"""Data sets of a user's own: what is laid down is what is trained on, and what is odd is named, each in a line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from fedpipe.data.datasets import Dataset, describe, load, save
from fedpipe.data.partition.settings import Partition
from fedpipe.data.shards import write_shards
from fedpipe.data.sources import Download, fetch
from fedpipe.data.store import ClientStore
from fedpipe.system.errors import UserError

RNG = np.random.default_rng(0)


def lay_down(root: Path, *, clients: bool = False, colour: bool = True, each: int = 5) -> dict[str, np.ndarray]:
    """Write images as files, and return them by their paths below the root."""
    images = {}
    for client in ("anna", "ben", "cleo") if clients else ("",):
        for name in ("roses", "tulips"):
            for number in range(each):
                path = Path(client) / name / f"{number}.png"
                pixels = RNG.integers(0, 256, (8, 8, 3) if colour else (8, 8), dtype=np.uint8)
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / path)
                images[path.as_posix()] = pixels
    return images


def own(path: Path, **settings: object) -> Dataset:
    return fetch(Download.model_validate({"dataset": "own", "path": str(path), **settings}), None, path.parent)


def as_set(*images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for several in images for image in several}


def test_a_folder_for_each_class(tmp_path: Path):
    images = lay_down(tmp_path / "flowers", each=20)
    found = own(tmp_path / "flowers")
    assert (found.name, found.class_names, found.client_names) == ("flowers", ("roses", "tulips"), ())
    assert found.spec.shape == (8, 8, 3)
    assert (len(found.train), len(found.test)) == (36, 4)
    assert as_set(found.train.images, found.test.images) == {pixels.tobytes() for pixels in images.values()}
    for image, label in zip(found.train.images, found.train.labels, strict=True):
        [path] = [path for path, pixels in images.items() if pixels.tobytes() == image.numpy().tobytes()]
        assert path.startswith(found.class_names[label])


def test_mean_and_std_are_those_of_the_training_images(tmp_path: Path):
    lay_down(tmp_path / "flowers")
    found = own(tmp_path / "flowers")
    pixels = found.train.images.double().numpy() / 255
    np.testing.assert_allclose(found.spec.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.spec.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)
    given = own(tmp_path / "flowers", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert (given.spec.mean, given.spec.std) == ((0.5,) * 3, (0.2,) * 3)


def test_a_folder_for_each_client_makes_the_natural_partition(tmp_path: Path):
    images = lay_down(tmp_path / "flowers", clients=True, each=10)
    save(own(tmp_path / "flowers", test_fraction=0.2), tmp_path / "dataset")
    train, description = load(tmp_path / "dataset/train.safetensors"), describe(tmp_path / "dataset/dataset.json")
    assert description.client_names == ("anna", "ben", "cleo")
    write_shards(tmp_path / "shards", train, 2, Partition(clients=3, scheme="natural"), seed=1)
    store = ClientStore(tmp_path / "shards")
    for number, client in enumerate(description.client_names):
        shown, _ = store.examples(number)
        assert len(shown) == 16  # a fifth of each client's own is tested on
        assert as_set(shown) <= {pixels.tobytes() for path, pixels in images.items() if path.startswith(client)}


def test_a_test_set_of_its_own_is_the_test_set(tmp_path: Path):
    lay_down(tmp_path / "flowers/train")
    tested = lay_down(tmp_path / "flowers/test", each=2)
    found = own(tmp_path / "flowers")
    assert (len(found.train), len(found.test)) == (10, 4)
    assert as_set(found.test.images) == {pixels.tobytes() for pixels in tested.values()}


def test_the_test_set_does_not_depend_on_the_experiments_seed_but_on_its_own(tmp_path: Path):
    lay_down(tmp_path / "flowers", each=20)
    one, same, other = (own(tmp_path / "flowers", split_seed=seed).test.images for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert as_set(one) != as_set(other)


def test_grey_images_have_one_channel_and_a_mixture_three(tmp_path: Path):
    lay_down(tmp_path / "letters", colour=False)
    assert own(tmp_path / "letters").spec.shape == (8, 8, 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "letters/roses/red.png")
    assert own(tmp_path / "letters").spec.shape == (8, 8, 3)


def test_images_of_many_sizes_are_cropped_and_scaled_if_asked(tmp_path: Path):
    lay_down(tmp_path / "photos")
    half = Image.new("RGB", (40, 20))  # the middle square is white
    half.paste((255, 255, 255), (10, 0, 30, 20))
    half.save(tmp_path / "photos/roses/wide.png")
    with pytest.raises(UserError, match=r"wide\.png: 40 x 20 pixels, and most are 8 x 8; download\.image_size scales"):
        own(tmp_path / "photos")
    found = own(tmp_path / "photos", image_size=4)
    assert found.spec.shape == (4, 4, 3)
    assert any((image[:, 1:3] > 250).all() for image in torch.cat([found.train.images, found.test.images]))


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


def save_safetensors(path: Path, **arrays: np.ndarray) -> None:
    save_file(arrays, path)


@pytest.mark.parametrize(("suffix", "write"), [(".npz", save_npz), (".safetensors", save_safetensors)])
def test_arrays_in_a_file(tmp_path: Path, suffix: str, write: Callable[..., None]):
    images = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
    labels, clients = np.arange(40) % 3, np.arange(40) // 10 * 7
    write(tmp_path / f"mine{suffix}", images=images, labels=labels, clients=clients)
    found = own(tmp_path / f"mine{suffix}")
    assert (found.name, found.spec.shape, found.spec.classes) == ("mine", (6, 5, 1), 3)
    assert found.client_names == ("0", "7", "14", "21")
    assert found.train.owners is not None
    assert torch.bincount(found.train.owners).tolist() == [9, 9, 9, 9]
    write(tmp_path / f"mine{suffix}", images=images, labels=labels, test_images=images[:4], test_labels=labels[:4])
    assert np.array_equal(own(tmp_path / f"mine{suffix}").test.images[..., 0], images[:4])


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def not_an_image(path: Path) -> None:
    path.write_text("hello")


def transparent(path: Path) -> None:
    Image.new("RGBA", (8, 8)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)


@pytest.mark.parametrize("damage", [broken, not_an_image, transparent, sixteen_bits])
def test_every_odd_image_is_named_in_a_line(tmp_path: Path, damage: Callable[[Path], None]):
    lay_down(tmp_path / "flowers")
    odd = [tmp_path / "flowers/roses/1.png", tmp_path / "flowers/tulips/3.png"]
    for path in odd:
        damage(path)
    with pytest.raises(UserError) as error:
        own(tmp_path / "flowers")
    lines = str(error.value).splitlines()
    assert [line.startswith(f"{path}: ") for line, path in zip(lines, odd, strict=True)] == [True, True]


def test_many_odd_images_are_counted(tmp_path: Path):
    for path in map(Path, lay_down(tmp_path / "flowers", each=15)):
        (tmp_path / "flowers" / path).write_text("hello")
    with pytest.raises(UserError) as error:
        own(tmp_path / "flowers")
    assert str(error.value).splitlines()[20:] == ["and 10 images more"]


ZEROS = np.zeros((4, 2, 2), np.uint8)
ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, r"not there; it must be a folder, or an \.npz"),
    "empty": (lambda path: path.mkdir(), r"no images; it must have a folder for each class, or"),
    "a text": (lambda path: (lay_down(path), (path / "roses/notes.txt").write_text("?")), r"notes\.txt: no image"),
    "too high": (lambda path: (lay_down(path), Image.new("L", (8, 8)).save(path / "0.png")), r"lies too high"),
    "too deep": (lambda path: lay_down(path / "a/b/c"), r"lies too deep; "),
    "two depths": (lambda path: (lay_down(path), lay_down(path, clients=True)), r"images lie at different depths"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_folder_that_is_laid_out_otherwise_is_refused(tmp_path: Path, name: str):
    make, said = ODD[name]
    make(tmp_path / "own")
    with pytest.raises(UserError, match=said) as error:
        own(tmp_path / "own")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": ZEROS}, "no array labels"),
        ({"images": ZEROS, "labels": np.arange(3)}, "labels are (3,) int64, and must be (4,) of 0 to 999"),
        ({"images": ZEROS, "labels": np.arange(4) - 1}, "labels are (4,) int64, and must be (4,) of 0 to 999"),
        ({"images": ZEROS / 2, "labels": np.arange(4)}, "images are (4, 2, 2) float64, and must be (n, height"),
        ({"images": ZEROS, "labels": np.zeros(4, int)}, "one class; there must be at least 2"),
        ({"images": ZEROS, "labels": np.arange(4), "extra": ZEROS}, "unknown array extra; known: clients, images"),
        ({"images": ZEROS, "labels": np.arange(4), "clients": np.arange(3)}, "clients are (3,) int64, and must be"),
        ({"images": ZEROS, "labels": np.arange(4), "test_images": ZEROS}, "test_images and test_labels come together"),
        ({"images": ZEROS, "labels": np.arange(4)}, "4 images, too few to test on 10%"),
        ({"images": np.array([None]), "labels": np.arange(1)}, "not a readable .npz file: "),
    ],
)  # fmt: skip
def test_arrays_that_make_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], said: str):
    np.savez(tmp_path / "mine.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'mine.npz'}: {said}")) as error:
        own(tmp_path / "mine.npz")
    assert "\n" not in str(error.value)
