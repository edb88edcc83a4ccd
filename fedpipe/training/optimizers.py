"""Optimisers that step on lists of gradients, by torch's own arithmetic.

They use torch's functional form: the bookkeeping of its optimiser objects takes a tenth of a small step.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedpipe.training.settings import Training


class Optimizer(Protocol):
    """Change parameters in place by gradients in the same order. Weight decay is L2: its gradient is added."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None: ...
    def state(self) -> list[Tensor]:
        """Return what it remembers of its steps: the tensors themselves, in an order of its own."""
        ...

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on as the optimiser whose state this is would have; it may lie on another device."""
        ...

    def step(self, gradients: Sequence[Tensor]) -> None: ...


class SGD:
    """Stochastic gradient descent, plain as in McMahan et al. 2017, or with momentum as torch.optim.SGD has it."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None:
        self._parameters, self._settings = list(parameters), settings
        self._momentum: list[Tensor | None] = [None] * len(self._parameters)

    def state(self) -> list[Tensor]:
        return [tensor for tensor in self._momentum if tensor is not None]

    def restore(self, state: Sequence[Tensor]) -> None:
        if state:  # it is made at the first step
            self._momentum = [_like(tensor, like) for tensor, like in zip(state, self._parameters, strict=True)]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        lr, momentum, weight_decay = self._settings.lr, self._settings.momentum, self._settings.weight_decay
        sgd(
            self._parameters, list(gradients), self._momentum, foreach=True,
            lr=lr, momentum=momentum, dampening=0.0, weight_decay=weight_decay, nesterov=False, maximize=False,
        )  # fmt: skip


class Adam:
    """Adam with the constants of Kingma & Ba 2015, arXiv:1412.6980."""

    def __init__(self, parameters: Sequence[Tensor], settings: Training) -> None:
        self._parameters, self._settings = list(parameters), settings
        self._means = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._squares = [torch.zeros_like(tensor) for tensor in self._parameters]
        self._steps = [torch.zeros((), device=tensor.device) for tensor in self._parameters]

    def state(self) -> list[Tensor]:
        return [*self._means, *self._squares, *self._steps]

    def restore(self, state: Sequence[Tensor]) -> None:
        for tensor, saved in zip(self.state(), state, strict=True):
            tensor.copy_(saved)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        lr, weight_decay = self._settings.lr, self._settings.weight_decay
        adam(
            self._parameters, list(gradients), self._means, self._squares, [], self._steps, fused=True, foreach=False,
            lr=lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip


def _like(saved: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy on the parameter's device, in its memory format."""
    return torch.empty_like(parameter, requires_grad=False).copy_(saved)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
