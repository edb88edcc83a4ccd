"""The networks, and their parameters as plain dictionaries of tensors.

To add one: a file with a `Model`, and its name in MODELS.
"""

import torch
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.params import Section, choice
from fedpipe.randomness import generator

MODELS: dict[str, type[Model]] = {
    "reference-cnn": ReferenceCNN,
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "initial parameters").integers(2**63)))
        return parameters_of(model.build())


def network_with(model: Model, parameters: Parameters) -> nn.Module:
    """A network of its own that holds a copy of the parameters."""
    with torch.device("meta"):  # no time, and no random numbers, spent on values that are replaced at once
        network = model.build()
    network = network.to_empty(device="cpu").to(memory_format=torch.channels_last)
    network.load_state_dict(parameters)
    return network


def parameters_of(network: nn.Module) -> Parameters:
    """A copy of the network's parameters and buffers, row-major."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def bytes_of(parameters: Parameters) -> int:
    """What it takes to send them once, uncompressed."""
    return sum(tensor.nbytes for tensor in parameters.values())
