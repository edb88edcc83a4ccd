"""A client: from its shard and what the server sends to an update. Reads its own shard and state, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedpipe import shards
from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.evaluation import evaluate
from fedpipe.files import read_tensors, write_tensors
from fedpipe.models import Model, Parameters, flat, parameters_of, scratch_network_with, trained_names
from fedpipe.randomness import generator
from fedpipe.strategies import Strategy, Trained, Visit
from fedpipe.training import MeanGradient, Training, train

NOTHING = torch.empty(0)


class Local(Training):
    """How clients train."""

    lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    def in_round(self, number: int) -> "Local":
        """With the learning rate of round 1, 2, ...: lr * lr_decay ** (number - 1)."""
        return self if self.lr_decay == 1 else self.model_copy(update={"lr": self.lr * self.lr_decay ** (number - 1)})


@dataclass(frozen=True)
class Task:
    """What the server asks of a client in a round."""

    round: int  # 1, 2, ...
    client: int
    shard: shards.Shard
    epochs: int  # local ones: fewer for a straggler
    weight: float  # of its update in the mean, relative to the others'
    share: float = 0.0  # p_k, its part of all training examples
    kept: int | None = None  # the round from which it keeps its own state; None: it keeps none yet


@dataclass(frozen=True)
class Broadcast:
    """What the server sends to each client of a round."""

    parameters: Parameters
    clients: Tensor = NOTHING  # (d,) float32, the strategy's slot of that name if it sends it


@dataclass(frozen=True)
class ClientReport:
    """How a client's training went: a row of clients.csv."""

    round: int
    client: int
    examples: int  # that it trains on, n_k
    epochs: int
    train_loss: float  # of its last local epoch, as trained
    loss: float | None  # on its own shard, after training; None where clients do not evaluate
    accuracy: float | None  # likewise; fraction
    held_out: int  # examples of its own that it does not train on
    holdout_accuracy_before: float | None  # of the server's model on these; None where there are none
    holdout_accuracy: float | None  # after training


@dataclass(frozen=True)
class Update:
    """What the client sends back."""

    report: ClientReport
    weight: float  # in the mean, relative to the others'
    delta: Tensor  # (d,) float32, its parameters after training less the server's, or what the strategy makes of that
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # the change of each of the network's buffers
    scalars: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.0  # p_k
    own_change: Tensor | None = None  # (d,) float32, of the state that it keeps


@dataclass(frozen=True)
class Client:
    """What all clients have in common."""

    strategy: Strategy
    model: Model
    local: Local
    seed: int
    states: Path = Path()  # where clients keep their own state, if the strategy has such
    evaluates: bool = True
    arithmetic: Arithmetic = PLAIN

    def train(self, task: Task, broadcast: Broadcast) -> Update:
        """ClientUpdate(k, w): local epochs of minibatch training from the server's model, with an optimiser of its own.

        References:
            McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
        """
        device = self.arithmetic.torch_device()
        images, labels = shards.read(task.shard) if device.type == "cpu" else shards.read_to(device, task.shard)
        parameters, strategy = broadcast.parameters, self.strategy
        local = strategy.local(self.local.in_round(task.round).model_copy(update={"epochs": task.epochs}))
        before = self._on_holdout(task, parameters) if self.evaluates else None
        start_loss = evaluate(self.model, parameters, images, labels).loss if strategy.needs_start_loss else None

        network = scratch_network_with(self.model, parameters, device)
        names = trained_names(network)
        start = flat(parameters[name] for name in names)
        visit = Visit(start, self._own(task, start) if strategy.keeps_state else NOTHING, broadcast.clients, local)
        mean_gradient = MeanGradient() if strategy.needs_mean_gradient else None
        rng = generator(self.seed, "batches", round=task.round, client=task.client)
        correction = strategy.correction(visit)
        *_, train_loss = train(network, images, labels, local, rng, self.arithmetic, correction, mean_gradient)

        after = parameters_of(network)
        trained = Trained(
            delta=flat(after[name] for name in names).sub_(start),
            steps=local.steps(len(labels)),
            start_loss=start_loss,
            mean_gradient=mean_gradient and mean_gradient.flat(),
        )
        upload = strategy.upload(visit, trained)
        if upload.own is not None:
            write_tensors(state_file(self.states, task.client, task.round), {"own": upload.own})

        loss = accuracy = None
        if self.evaluates:
            own = evaluate(self.model, after, images, labels)  # float32, whatever the precision of training
            loss, accuracy = own.loss, own.accuracy
        report = ClientReport(
            task.round, task.client, len(labels), local.epochs, train_loss, loss, accuracy,
            held_out=task.shard.held_out,
            holdout_accuracy_before=before,
            holdout_accuracy=self._on_holdout(task, after) if self.evaluates else None,
        )  # fmt: skip
        return Update(
            report,
            task.weight,
            upload.delta,
            {name: after[name] - parameters[name] for name in parameters if name not in names},
            upload.scalars,
            task.share,
            None if upload.own is None else upload.own - visit.own,
        )

    def _on_holdout(self, task: Task, parameters: Parameters) -> float | None:
        """The accuracy on the client's own test examples."""
        if not task.shard.held_out:
            return None
        images, labels = (tensor.to(self.arithmetic.torch_device()) for tensor in shards.read(task.shard.holdout))
        return evaluate(self.model, parameters, images, labels).accuracy

    def _own(self, task: Task, start: Tensor) -> Tensor:
        """(d,) what it keeps from its last round: zeros before its first."""
        if task.kept is None:
            return torch.zeros_like(start)
        return read_tensors(state_file(self.states, task.client, task.kept))["own"]


def state_file(folder: Path, client: int, round: int) -> Path:
    """Where a client's state after this round lies. Of each round its own: so a client can be run again."""
    return folder / f"client-{client:05d}-round-{round:05d}.safetensors"
