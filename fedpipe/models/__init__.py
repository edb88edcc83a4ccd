"""The networks, and their parameters as plain dictionaries of tensors.

To add one: a file with a `Model`, and its name in MODELS.
"""

import threading
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.paper_cnn import PaperCNN
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.models.two_nn import TwoNN
from fedpipe.params import Section, choice
from fedpipe.randomness import generator

MODELS: dict[str, type[Model]] = {
    "reference-cnn": ReferenceCNN,
    "paper-cnn": PaperCNN,
    "2nn": TwoNN,
    "logistic": Logistic,
}

Parameters = dict[str, Tensor]  # a network's parameters and buffers by name


@choice("name", MODELS)
class ModelChoice(Section):
    """Which network."""

    name: str = "reference-cnn"

    @property
    def model(self) -> Model:
        return self.chosen("name")


def initial_parameters(model: Model, seed: int) -> Parameters:
    """The parameters that every run of this seed starts from, federated or not."""
    return parameters_of(_build(model, int(generator(seed, "initial parameters").integers(2**63))))


def network_with(model: Model, parameters: Parameters, device: str | torch.device = "cpu") -> nn.Module:
    """A network of its own that holds a copy of the parameters."""
    return load(_build(model).to(device).to(memory_format=torch.channels_last), parameters)


def scratch_network_with(model: Model, parameters: Parameters, device: str | torch.device = "cpu") -> nn.Module:
    """This thread's scratch network of the model, filled with the parameters: the thread's next call overwrites it.

    Building a network takes as long as some clients' whole training.
    """
    key = model, str(device)
    if key not in _scratch.networks:
        _scratch.networks[key] = network_with(model, parameters, device)
    return load(_scratch.networks[key], parameters)


def load(network: nn.Module, parameters: Parameters) -> nn.Module:
    """Copies the parameters into the network; returns it."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(parameters[name])
    return network


def parameters_of(network: nn.Module) -> Parameters:
    """A copy of the network's parameters and buffers on the CPU, row-major."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def trained_names(network: nn.Module) -> list[str]:
    """The names of the parameters that training changes by gradients: all but buffers. In the network's order."""
    return [name for name, _ in network.named_parameters()]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """The tensors as one (d,) vector, one after the other, each row-major."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def bytes_of(parameters: Parameters) -> int:
    """What it takes to send them once, uncompressed."""
    return sum(tensor.nbytes for tensor in parameters.values())


def _build(model: Model, seed: int = 0) -> nn.Module:
    """Initialised from the seed, by torch's one generator, which is given back as it was."""
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build()


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.networks: dict[tuple[Model, str], nn.Module] = {}


_scratch = _Scratch()
_one_at_a_time = threading.Lock()
