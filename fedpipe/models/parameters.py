"""A network's parameters as a dictionary of tensors or as one vector, and networks filled with them."""

import threading
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fedpipe.models.base import Architecture
from fedpipe.system.randomness import generator

Parameters = Mapping[str, Tensor]
"""A network's parameters and buffers by name, on the CPU, row-major."""


def initial_parameters(architecture: Architecture, seed: int) -> Parameters:
    """Return the parameters that every run of this seed starts from, federated or not."""
    return parameters_of(_build(architecture, int(generator(seed, "initial parameters").integers(2**63))))


def network_with(architecture: Architecture, parameters: Parameters, device: str | torch.device = "cpu") -> nn.Module:
    """Return a new network that holds a copy of the parameters."""
    return load(_build(architecture).to(device).to(memory_format=torch.channels_last), parameters)


def scratch_network_with(
    architecture: Architecture, parameters: Parameters, device: str | torch.device = "cpu", *, purpose: str = ""
) -> nn.Module:
    """Return this thread's scratch network, filled with the parameters; the thread's next call overwrites it.

    Building a network takes as long as the whole training of a small client. Calls for another purpose have a network
    of their own.
    """
    key = architecture, str(device), purpose
    if key not in _scratch.networks:
        network = network_with(architecture, parameters, device)
        _scratch.networks[key] = network, network.state_dict()
    return _fill(*_scratch.networks[key], parameters)


def skeleton(architecture: Architecture) -> nn.Module:
    """Return a network without values, to ask for names and layers."""
    with _one_at_a_time, torch.device("meta"):
        return architecture.build()


def load(network: nn.Module, parameters: Parameters) -> nn.Module:
    """Copy the parameters into the network and return it."""
    return _fill(network, network.state_dict(), parameters)


def parameters_of(network: nn.Module) -> Parameters:
    """Return a copy of the network's parameters and buffers."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def vector_of(network: nn.Module) -> Tensor:
    """Return a copy of all trained parameters as one (d,) vector on the CPU."""
    return flat(parameter.detach() for parameter in network.parameters()).cpu()


def trained_names(network: nn.Module) -> list[str]:
    """Return the names of the parameters that have gradients, which leaves out buffers, in the network's order."""
    return [name for name, _ in network.named_parameters()]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return the tensors as one (d,) vector, one after the other, each row-major."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], parameters: Parameters) -> nn.Module:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(parameters[name])
    return network


def _build(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Build a network from the seed by torch's global generator, and leave that generator as it was."""
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build()


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.networks: dict[tuple[Architecture, str, str], tuple[nn.Module, Mapping[str, Tensor]]] = {}


_scratch = _Scratch()
_one_at_a_time = threading.Lock()
