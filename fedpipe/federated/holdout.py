"""The evaluation of a model on what clients hold out, by the clients: each opens its own examples alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fedpipe.data.store import ClientStore, open_store
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import Parameters, scratch_network_with
from fedpipe.spec import DataSpec
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.evaluation import evaluate


@dataclass(frozen=True)
class HoldoutReport:
    """How good a model is on what a client holds out: a row of holdout.csv."""

    client: int
    held_out: int  # examples
    loss: float | None  # None where there are none, or where clients do not evaluate
    accuracy: float | None  # likewise; fraction


@dataclass(frozen=True)
class EvaluateHoldouts:
    """Evaluate a model on the held-out examples of some clients: an engine's job."""

    architecture: Architecture
    store: Path  # of examples, as `fedpipe.data.store` writes it
    arithmetic: Arithmetic

    def __call__(self, parameters: Parameters, tasks: Iterable[int]) -> list[HoldoutReport]:
        store = open_store(self.store)
        network = scratch_network_with(self.architecture, parameters, self.arithmetic.torch_device())
        spec = self.architecture.spec
        return [evaluate_holdout(network, store, client, spec, self.arithmetic) for client in tasks]


def evaluate_holdout(
    network: nn.Module, store: ClientStore, client: int, spec: DataSpec, arithmetic: Arithmetic
) -> HoldoutReport:
    """Evaluate a network on the examples that a client holds out.

    Args:
        network: on the device of `arithmetic`.
        store: the clients'.
        client: its number.
        spec: what images and labels are like.
        arithmetic: names the device.
    """
    if not store.held_out_size(client):
        return HoldoutReport(client, 0, None, None)
    device = arithmetic.torch_device()
    images, labels = (tensor.to(device) for tensor in store.held_out(client))
    found = evaluate(network, images, labels, spec)
    return HoldoutReport(client, len(labels), found.loss, found.accuracy)
