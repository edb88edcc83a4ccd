"""A trained model as a file: its tensors, and in the file's header all that is needed to use them elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import nn

from fedpipe.config.section import Section
from fedpipe.data.datasets import Description, PerChannel, Side
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import Parameters, network_with, skeleton
from fedpipe.models.settings import ModelChoice
from fedpipe.spec import DataSpec
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.tensors import read_header, read_tensors, write_tensors

REMEDY = "`dvc repro` and `result.save` write such files"


@dataclass(frozen=True)
class Header:
    """What the file says of the model besides its tensors."""

    format: Literal[1]
    dataset: StrictStr  # its name
    source: StrictStr  # where its examples come from
    height: Side
    width: Side
    channels: Annotated[StrictInt, Field(ge=1, le=100)]
    mean: PerChannel
    std: PerChannel
    class_names: Annotated[tuple[StrictStr, ...], Field(min_length=2, max_length=1000)]
    model: Mapping[str, Any]  # the block of params.yaml, without what is not in use
    experiment: Mapping[str, Any]  # how it was trained, likewise

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.height, self.width, self.channels, len(self.class_names), self.mean, self.std)

    def as_json(self) -> str:
        """Return it as JSON with sorted keys, so that equal headers are equal texts."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Trained:
    """A model from a file, ready for use."""

    header: Header
    architecture: Architecture
    parameters: Parameters

    def network(self) -> nn.Module:
        """Return the network, which maps what `normalised` returns to logits (n, classes)."""
        return network_with(self.architecture, self.parameters).eval()


def write(path: str | Path, parameters: Parameters, experiment: Section, data: Description) -> None:
    """Write a model to a safetensors file. Equal models of equal experiments make equal bytes, on any machine.

    Args:
        path: the file.
        parameters: of the trained network.
        experiment: its parameters. Those under `compute` are left out, except `precision`, which results depend on.
        data: the data set it was trained on.

    Raises:
        UserError: the path is a folder's, or the network or the algorithm is of a class whose code cannot be read.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: a folder; name a file in it, such as {Path(path) / 'model.safetensors'}")
    values = experiment.in_use()
    model, compute = values.pop("model"), values.pop("compute")
    header = Header(
        format=1,
        dataset=data.name,
        source=data.source,
        height=data.height,
        width=data.width,
        channels=data.channels,
        mean=data.mean,
        std=data.std,
        class_names=data.class_names,
        model=model,
        experiment={**values, "precision": compute["precision"]},
    )
    write_tensors(path, parameters, header.as_json())


def read(path: str | Path) -> Trained:
    """Read a model as `write` wrote it.

    Raises:
        UserError: there is no such file, or it does not say what network it is for, or that network is of a class of
            the user's own, which the file does not contain.
    """
    path = Path(path)
    header = _header(path)
    name = header.model.get("name")
    if isinstance(name, Mapping):
        raise UserError(
            f"{path}: its network is of a class of your own, {name.get('class')}, which the file does not contain; "
            "build one and give it the tensors: network.load_state_dict(safetensors.torch.load_file(path))"
        )
    try:
        architecture = ModelChoice.model_validate(header.model).model.on(header.spec)
        expected = {name: tensor.shape for name, tensor in skeleton(architecture).state_dict().items()}
    except (ValidationError, ParameterError):
        raise UserError(f"{path}: its network, {name}, is not one that this version of fedpipe can build") from None
    parameters = read_tensors(path)
    if {name: tensor.shape for name, tensor in parameters.items()} != expected:
        raise UserError(f"{path}: damaged (its tensors are not those of {name}); {REMEDY}")
    return Trained(header, architecture, parameters)


def _header(path: Path) -> Header:
    try:
        text = read_header(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {REMEDY}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {REMEDY}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: no safetensors file, or damaged ({error}); {REMEDY}") from None
    if text is None:
        raise UserError(f"{path}: tensors alone, without what network and images they are for; {REMEDY}")
    try:
        header = TypeAdapter(Header).validate_json(text)
        header.spec.require_normalisation()
        return header
    except ValueError:
        raise UserError(f"{path}: its header is none that this version of fedpipe can read; {REMEDY}") from None
