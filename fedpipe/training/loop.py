"""The one training loop: minibatch optimisation of a network on examples in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.spec import DataSpec
from fedpipe.training.arithmetic import PLAIN, Arithmetic
from fedpipe.training.images import normalised
from fedpipe.training.optimizers import OPTIMIZERS, Optimizer
from fedpipe.training.settings import Training

BLOCK = 256  # examples to gather and normalise at once, in whole batches: they stay in the cache


@dataclass(frozen=True)
class Correction:
    """An affine term that an algorithm adds to each step's gradient g at the weights w: g + constant + proximal * w."""

    constant: Tensor  # (d,) in the order of the network's parameters
    proximal: float = 0.0


class GradientFunction(Protocol):
    """Compute a batch's loss and gradients: the place of a client's objective that no affine correction expresses.

    Called as gradients(network, images, labels, arithmetic) with normalised images; returns the batch's mean loss and
    the gradients in the order of `network.parameters()`. It may run the network as often as it likes and must leave its
    parameters as they were.
    """

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, arithmetic: Arithmetic, /
    ) -> tuple[Tensor, list[Tensor]]: ...


@runtime_checkable
class WithOwnSGDStep(Protocol):
    """A network that takes a plain float32 SGD step itself, gradient and descent in one, without autograd."""

    def sgd_step(self, images: Tensor, labels: Tensor, lr: float) -> Tensor: ...


@runtime_checkable
class WithOwnGradients(Protocol):
    """A network whose float32 backpropagation is written out."""

    def loss_and_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]: ...


class MeanGradient:
    """Average a training's gradients, each clipped if clipping was asked for, before any correction."""

    def __init__(self) -> None:
        self._sum: list[Tensor] = []
        self._steps = 0

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Take another step's gradients into the mean."""
        self._sum = self._sum or [torch.zeros_like(gradient) for gradient in gradients]
        for total, gradient in zip(self._sum, gradients, strict=True):
            total.add_(gradient)
        self._steps += 1

    def flat(self) -> Tensor:
        """Return the mean as one (d,) float32 vector on the CPU."""
        return torch.cat([tensor.reshape(-1) for tensor in self._sum]).div_(self._steps).cpu()


def loss_and_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, list[Tensor]]:
    """Return the mean cross-entropy and its gradients, in the order of `network.parameters()`.

    In float32, a network with a `loss_and_gradients` of its own computes them by that.
    """
    if arithmetic.precision == "float32" and (written_out := _written_out(network)):
        with torch.no_grad():
            return written_out.loss_and_gradients(images, labels)
    with arithmetic.autocast(images.device):
        logits = network(images)
    loss = F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)
    return loss.detach(), list(torch.autograd.grad(loss, list(network.parameters())))


@lru_cache
def _is_written_out(kind: type[nn.Module]) -> bool:
    return issubclass(kind, WithOwnGradients)  # which takes as long as a small layer


def _written_out(network: nn.Module) -> WithOwnGradients | None:
    return cast(WithOwnGradients, network) if _is_written_out(type(network)) else None


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: DataSpec,
    settings: Training,
    rng: np.random.Generator,
    arithmetic: Arithmetic = PLAIN,
    correction: Correction | None = None,
    mean_gradient: MeanGradient | None = None,
    gradients: GradientFunction = loss_and_gradients,
    optimizer: Optimizer | None = None,
) -> Iterator[float]:
    """Train in place, and yield after each epoch the mean loss of its batches, as trained.

    Args:
        network: takes what `normalised` returns; on the device of the examples.
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        spec: what they are like.
        settings: epochs, batch size (None for all n), optimiser, learning rate.
        rng: draws the order of the examples anew in each epoch. A last, smaller batch is used like the others.
        arithmetic: the precision.
        correction: added to each gradient.
        mean_gradient: receives each gradient.
        gradients: the loss that is minimised.
        optimizer: of the network's parameters, to go on with; None makes a new one.
    """
    network.train()
    step = _step(network, settings, arithmetic, correction, mean_gradient, gradients, optimizer)
    batch_size = settings.batch_size or len(labels)
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(len(labels))).to(images.device)
        losses: list[Tensor] = []  # tensors until the epoch is over: reading one out would stall the loop
        for block in order.split(batch_size * max(1, BLOCK // batch_size)):
            batches = zip(
                normalised(images[block], spec).split(batch_size), labels[block].split(batch_size), strict=True
            )
            losses += [step(*batch) for batch in batches]
        sizes = np.array([len(batch) for batch in order.split(batch_size)])
        yield float((np.array(torch.stack(losses).tolist()) * sizes).sum() / len(labels))


def _step(
    network: nn.Module,
    settings: Training,
    arithmetic: Arithmetic,
    correction: Correction | None,
    mean_gradient: MeanGradient | None,
    gradients_of: GradientFunction,
    optimizer: Optimizer | None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return step(images, labels), which changes the network by one batch and returns the batch's mean loss."""
    plain = settings.optimizer == "sgd" and not (settings.momentum or settings.weight_decay or settings.clip_norm)
    unobserved = correction is None and mean_gradient is None and gradients_of is loss_and_gradients
    if plain and unobserved and arithmetic.precision == "float32" and isinstance(network, WithOwnSGDStep):
        return partial(network.sgd_step, lr=settings.lr)

    parameters = list(network.parameters())
    optimizer = optimizer or OPTIMIZERS[settings.optimizer](parameters, settings)
    constants = correction and _like(parameters, correction.constant)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = gradients_of(network, images, labels, arithmetic)
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
    """Return the (d,) vector in the parameters' shapes, memory formats and device."""
    pieces = vector.split([tensor.numel() for tensor in parameters])
    return [
        torch.empty_like(tensor, requires_grad=False).copy_(piece.view(tensor.shape))
        for tensor, piece in zip(parameters, pieces, strict=True)
    ]


def _clip(gradients: Sequence[Tensor], norm: float) -> None:
    """Scale the gradients so that the norm of all together is at most this. Pascanu et al. 2013, arXiv:1211.5063."""
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    for gradient in gradients:
        gradient.mul_((norm / (total + 1e-12)).clamp(max=1.0))
