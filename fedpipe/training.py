"""The one training loop: minibatch optimisation of a network on examples in memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.models.base import normalised
from fedpipe.params import Section

BLOCK = 256  # examples to gather and normalise at once, in whole batches: they stay in the cache


class Training(Section):
    """How a network is trained, by a client or centrally."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 100
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Training,
    rng: np.random.Generator,
    arithmetic: Arithmetic = PLAIN,
) -> Iterator[float]:
    """Trains in place with a new optimiser; yields after each epoch the mean loss of its batches, as trained.

    Args:
        network: takes what `normalised` returns; on the device of the examples.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        settings: epochs, batch size, optimiser, learning rate.
        rng: the order of the examples, drawn anew each epoch. A last, smaller batch is used like the others.
        arithmetic: the precision.
    """
    network.train()
    step = _step(network, settings, arithmetic)
    batch_size = settings.batch_size
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(len(labels))).to(images.device)
        losses: list[Tensor] = []  # tensors until the epoch is over: reading one out would stall the loop
        for block in order.split(batch_size * max(1, BLOCK // batch_size)):
            batches = zip(normalised(images[block]).split(batch_size), labels[block].split(batch_size), strict=True)
            losses += [step(*batch) for batch in batches]
        sizes = [len(batch) for batch in order.split(batch_size)]
        yield float(np.average(torch.stack(losses).tolist(), weights=sizes))


def _step(network: nn.Module, settings: Training, arithmetic: Arithmetic) -> Callable[[Tensor, Tensor], Tensor]:
    """step(images, labels): changes the network by one batch, returns the batch's mean loss.

    A network with a method `sgd_step`, gradient and descent in one, does plain float32 SGD by that.
    """
    if settings.optimizer == "sgd" and arithmetic.precision == "float32" and hasattr(network, "sgd_step"):
        sgd_step: Any = network.sgd_step
        return torch.no_grad()(partial(sgd_step, lr=settings.lr))

    parameters = list(network.parameters())
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings.lr)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = loss_and_gradients(network, images, labels, arithmetic)
        optimizer.step(gradients)
        return loss

    return step


def loss_and_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Sequence[Tensor]]:
    """Mean cross-entropy and its gradients, in the order of `network.parameters()`.

    A network with a method `loss_and_gradients` of its own, its backpropagation written out, uses that in float32.
    """
    written_out = getattr(network, "loss_and_gradients", None)
    if written_out and arithmetic.precision == "float32":
        with torch.no_grad():
            return written_out(images, labels)
    with arithmetic.autocast(images.device):
        logits = network(images)
    loss = F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)
    return loss.detach(), torch.autograd.grad(loss, list(network.parameters()))


class Optimizer(Protocol):
    """Changes parameters in place, by gradients in their order."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None: ...
    def step(self, gradients: Sequence[Tensor]) -> None: ...


class SGD:
    """Plain stochastic gradient descent, as in McMahan et al. 2017."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self._parameters, self._lr = list(parameters), lr
        self._momentum: list[Tensor | None] = [None] * len(self._parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        sgd(
            self._parameters, list(gradients), self._momentum, foreach=True,
            lr=self._lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False,
        )  # fmt: skip


class Adam:
    """Kingma & Ba 2015, arXiv:1412.6980, with their constants."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self._parameters, self._lr = list(parameters), lr
        self._means = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._squares = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._steps = [torch.zeros((), device=tensor.device) for tensor in self._parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        adam(
            self._parameters, list(gradients), self._means, self._squares, [], self._steps, fused=True, foreach=False,
            lr=self._lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip


# torch's own arithmetic by its functional form: the optimiser objects' bookkeeping takes a tenth of a small step.
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
