"""A client: from its own shard and the server's parameters to an update. Reads its shard and nothing else."""

from dataclasses import dataclass

from torch import Tensor

from fedpipe import shards
from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.evaluation import evaluate
from fedpipe.models import Model, Parameters, parameters_of, scratch_network_with
from fedpipe.randomness import generator
from fedpipe.training import Training, train


@dataclass(frozen=True)
class Task:
    """What the server asks of a client in a round."""

    round: int  # 1, 2, ...
    client: int
    shard: shards.Shard


@dataclass(frozen=True)
class ClientReport:
    """How a client's training went: a row of clients.csv."""

    round: int
    client: int
    examples: int  # in its shard, n_k
    train_loss: float  # of its last local epoch, as trained
    loss: float | None  # on its own shard, after training; None where clients do not evaluate
    accuracy: float | None  # likewise; fraction


@dataclass(frozen=True)
class Update:
    """What the client sends back."""

    report: ClientReport
    delta: dict[str, Tensor]  # its parameters after training less the server's


def train_client(
    task: Task,
    parameters: Parameters,
    *,
    model: Model,
    local: Training,
    seed: int,
    evaluates: bool = True,
    arithmetic: Arithmetic = PLAIN,
) -> Update:
    """ClientUpdate(k, w): local epochs of minibatch training from the server's model, with an optimiser of its own.

    References:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    device = arithmetic.torch_device()
    images, labels = shards.read(task.shard) if device.type == "cpu" else shards.read_to(device, task.shard)
    network = scratch_network_with(model, parameters, device)
    rng = generator(seed, "batches", round=task.round, client=task.client)
    *_, train_loss = train(network, images, labels, local, rng, arithmetic)
    trained = parameters_of(network)
    loss = accuracy = None
    if evaluates:
        own = evaluate(model, trained, images, labels)  # float32, whatever the precision of training
        loss, accuracy = own.loss, own.accuracy
    report = ClientReport(task.round, task.client, len(labels), train_loss, loss, accuracy)
    return Update(report, {name: trained[name].sub_(start) for name, start in parameters.items()})
