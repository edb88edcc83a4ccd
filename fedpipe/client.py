"""A client: from its own shard and the server's parameters to an update. Reads one file and nothing else."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedpipe import shards
from fedpipe.evaluation import evaluate
from fedpipe.models import Model, Parameters, network_with, parameters_of
from fedpipe.randomness import generator
from fedpipe.training import Training, train


@dataclass(frozen=True)
class Task:
    """What the server asks of a client in a round."""

    round: int  # 1, 2, ...
    client: int
    shard: Path
    parameters: Parameters  # the server's model


@dataclass(frozen=True)
class ClientReport:
    """How a client's training went: a row of clients.csv."""

    round: int
    client: int
    examples: int  # in its shard, n_k
    train_loss: float  # of its last local epoch, as trained
    loss: float  # on its own shard, after training
    accuracy: float  # likewise; fraction


@dataclass(frozen=True)
class Update:
    """What the client sends back."""

    report: ClientReport
    delta: dict[str, Tensor]  # its parameters after training less the server's


def train_client(task: Task, *, model: Model, local: Training, seed: int) -> Update:
    """ClientUpdate(k, w): local epochs of minibatch training from the server's model, with an optimiser of its own.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    images, labels = shards.read(task.shard)
    network = network_with(model, task.parameters)
    rng = generator(seed, "batches", round=task.round, client=task.client)
    *_, train_loss = train(network, images, labels, local, rng)
    trained = parameters_of(network)
    own = evaluate(model, trained, images, labels)
    report = ClientReport(task.round, task.client, len(labels), train_loss, own.loss, own.accuracy)
    return Update(report, {name: trained[name] - start for name, start in task.parameters.items()})
