"""Write a trained model in the formats of other programs, which need nothing of fedpipe."""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fedpipe.serving.trained import Header, Trained
from fedpipe.system.errors import UserError
from fedpipe.system.files import replacing

TRACED = 2  # images with which a network is traced; it then takes any number


class FromPixels(nn.Module):
    """Map images (n, channels, height, width) float32, where black is 0 and white is 1, to logits (n, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, header: Header) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(header.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(header.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


@dataclass(frozen=True)
class Format:
    """A format, and what to do with a file of it."""

    suffix: str
    write: Callable[[Trained], bytes]
    use: str


def export(model: Trained, format: str, path: Path) -> str:
    """Write a model to a file.

    Args:
        model: the model.
        format: one of FORMATS.
        path: the file.

    Returns:
        What to do with it, in words.

    Raises:
        UserError: the format needs a package that is not installed, or the path is that of another kind of file.
    """
    suffix = FORMATS[format].suffix
    if path.suffix != suffix:
        raise UserError(f"{path}: files of the format {format} end in {suffix}")
    content = FORMATS[format].write(model)
    with replacing(path) as new:
        new.write_bytes(content)
    return FORMATS[format].use.format(path=path, **vars(model.header))


def _state_dict(model: Trained) -> bytes:
    file = io.BytesIO()
    torch.save(dict(model.parameters), file)
    return file.getvalue()


def _torch_export(model: Trained) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # about torch's own code
        program = torch.export.export(*_traced(model), dynamic_shapes=_any_number())
        torch.export.save(program, file, extra_files={"fedpipe.json": _about(model.header)})
    return file.getvalue()


def _onnx(model: Trained) -> bytes:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f'{" and ".join(missing)}: not installed; pip install -e ".[export]"')
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            *_traced(model), dynamo=True, dynamic_shapes=_any_number(), input_names=["images"],
            output_names=["logits"], opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props["fedpipe"] = _about(model.header)
    return program.model_proto.SerializeToString()


def _traced(model: Trained) -> tuple[nn.Module, tuple[Tensor]]:
    """Return the network, with its tensors row-major, and images to trace it with."""
    network = model.network().to(memory_format=torch.contiguous_format)
    spec = model.header.spec
    return FromPixels(network, model.header).eval(), (torch.zeros(TRACED, spec.channels, spec.height, spec.width),)


def _any_number() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("n")}}


def _about(header: Header) -> str:
    shape = f"(n, {header.channels}, {header.height}, {header.width})"
    words = {
        "input": f"images {shape} float32, where black is 0 and white is 1; mean and std are applied inside",
        "output": "logits (n, classes) float32, in the order of class_names",
    }
    return json.dumps(json.loads(header.as_json()) | words, sort_keys=True, ensure_ascii=False)


OPSET = 20  # of ONNX, which onnxruntime 1.17 and later run
IMAGES = "images (n, {channels}, {height}, {width}) float32, where black is 0 and white is 1"

FORMATS = {
    "state-dict": Format(
        ".pt",
        _state_dict,
        'network.load_state_dict(torch.load("{path}", weights_only=True)) fills a network of the same layers. It takes '
        "images (n, {channels}, {height}, {width}) float32 as (pixels / 255 - mean) / std, with mean {mean} and std "
        "{std}.",
    ),
    "torch-export": Format(
        ".pt2",
        _torch_export,
        f'torch.export.load("{{path}}").module() is the network, and needs torch alone. It maps {IMAGES}, to logits.',
    ),
    "onnx": Format(
        ".onnx",
        _onnx,
        f'onnxruntime.InferenceSession("{{path}}").run(["logits"], {{{{"images": images}}}}) maps {IMAGES}, to logits '
        f"(opset {OPSET}).",
    ),
}
