"""The one training loop: minibatch optimisation of a network on examples in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
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
    batch_size: PositiveInt | None = 100
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum: {self.momentum:g} is for optimizer sgd; {self.optimizer} has moments of its own"
            )
        return self

    def steps(self, examples: int) -> int:
        """Of so many examples, over all epochs; a last, smaller batch is one too."""
        return self.epochs * -(-examples // (self.batch_size or examples))


@dataclass(frozen=True)
class Correction:
    """What an algorithm adds to each step's gradient g at the weights w: g + constant + proximal * w."""

    constant: Tensor  # (d,)
    proximal: float = 0.0


class MeanGradient:
    """The mean of a training's gradients, each clipped if clipping was asked for, before any correction."""

    def __init__(self) -> None:
        self._sum: list[Tensor] = []
        self._steps = 0

    def add(self, gradients: Sequence[Tensor]) -> None:
        self._sum = self._sum or [torch.zeros_like(gradient) for gradient in gradients]
        for total, gradient in zip(self._sum, gradients, strict=True):
            total.add_(gradient)
        self._steps += 1

    def flat(self) -> Tensor:
        """(d,) float32, on the CPU."""
        return torch.cat([tensor.reshape(-1) for tensor in self._sum]).div_(self._steps).cpu()


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Training,
    rng: np.random.Generator,
    arithmetic: Arithmetic = PLAIN,
    correction: Correction | None = None,
    mean_gradient: MeanGradient | None = None,
) -> Iterator[float]:
    """Trains in place with a new optimiser; yields after each epoch the mean loss of its batches, as trained.

    Args:
        network: takes what `normalised` returns; on the device of the examples.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        settings: epochs, batch size (None: all n), optimiser, learning rate.
        rng: the order of the examples, drawn anew each epoch. A last, smaller batch is used like the others.
        arithmetic: the precision.
        correction: added to each gradient.
        mean_gradient: told of each gradient.
    """
    network.train()
    step = _step(network, settings, arithmetic, correction, mean_gradient)
    batch_size = settings.batch_size or len(labels)
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(len(labels))).to(images.device)
        losses: list[Tensor] = []  # tensors until the epoch is over: reading one out would stall the loop
        for block in order.split(batch_size * max(1, BLOCK // batch_size)):
            batches = zip(normalised(images[block]).split(batch_size), labels[block].split(batch_size), strict=True)
            losses += [step(*batch) for batch in batches]
        sizes = [len(batch) for batch in order.split(batch_size)]
        yield float(np.average(torch.stack(losses).tolist(), weights=sizes))


def _step(
    network: nn.Module,
    settings: Training,
    arithmetic: Arithmetic,
    correction: Correction | None,
    mean_gradient: MeanGradient | None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """step(images, labels): changes the network by one batch, returns the batch's mean loss.

    A network with a method `sgd_step`, gradient and descent in one, does plain float32 SGD by that.
    """
    plain = settings.optimizer == "sgd" and not (settings.momentum or settings.weight_decay or settings.clip_norm)
    as_is = correction is None and mean_gradient is None and arithmetic.precision == "float32"
    if plain and as_is and hasattr(network, "sgd_step"):
        sgd_step: Any = network.sgd_step
        return torch.no_grad()(partial(sgd_step, lr=settings.lr))

    parameters = list(network.parameters())
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings)
    constants = correction and _like(parameters, correction.constant)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = loss_and_gradients(network, images, labels, arithmetic)
        if settings.clip_norm:
            _clip(gradients, settings.clip_norm)
        if mean_gradient:
            mean_gradient.add(gradients)
        if correction and constants:
            for gradient, constant, weight in zip(gradients, constants, parameters, strict=True):
                gradient.add_(constant)
                if correction.proximal:
                    gradient.add_(weight.detach(), alpha=correction.proximal)
        optimizer.step(gradients)
        return loss

    return step


def _like(parameters: Sequence[Tensor], vector: Tensor) -> list[Tensor]:
    """The (d,) vector in the parameters' shapes, memory formats and device."""
    pieces = vector.split([tensor.numel() for tensor in parameters])
    return [
        torch.empty_like(tensor, requires_grad=False).copy_(piece.view(tensor.shape))
        for tensor, piece in zip(parameters, pieces, strict=True)
    ]


def _clip(gradients: Sequence[Tensor], norm: float) -> None:
    """Scales the gradients so that their norm, all taken together, is at most this. Pascanu et al. 2013, 1211.5063."""
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    for gradient in gradients:
        gradient.mul_((norm / (total + 1e-12)).clamp(max=1.0))


def loss_and_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, list[Tensor]]:
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
    return loss.detach(), list(torch.autograd.grad(loss, list(network.parameters())))


class Optimizer(Protocol):
    """Changes parameters in place, by gradients in their order. Weight decay is L2: its gradient is added."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None: ...
    def step(self, gradients: Sequence[Tensor]) -> None: ...


class SGD:
    """Stochastic gradient descent, plain as in McMahan et al. 2017 or with momentum as torch.optim.SGD has it."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None:
        self._parameters, self._settings = list(parameters), settings
        self._momentum: list[Tensor | None] = [None] * len(self._parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        lr, momentum, weight_decay = self._settings.lr, self._settings.momentum, self._settings.weight_decay
        sgd(
            self._parameters, list(gradients), self._momentum, foreach=True,
            lr=lr, momentum=momentum, dampening=0.0, weight_decay=weight_decay, nesterov=False, maximize=False,
        )  # fmt: skip


class Adam:
    """Kingma & Ba 2015, arXiv:1412.6980, with their constants."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None:
        self._parameters, self._settings = list(parameters), settings
        self._means = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._squares = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._steps = [torch.zeros((), device=tensor.device) for tensor in self._parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        lr, weight_decay = self._settings.lr, self._settings.weight_decay
        adam(
            self._parameters, list(gradients), self._means, self._squares, [], self._steps, fused=True, foreach=False,
            lr=lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip


# torch's own arithmetic by its functional form: the optimiser objects' bookkeeping takes a tenth of a small step.
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
