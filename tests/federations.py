"""Small federations on real images, for the tests: five clients of unequal sizes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from fedpipe.data.sources import ORIGINALS
from fedpipe.engines import Compute
from fedpipe.experiment import Experiment, FederatedData, iterate
from fedpipe.federated.client import Client
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.messages import Broadcast, ClientReport, Task
from fedpipe.federated.rounds import Round
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ServerState
from fedpipe.models.base import Architecture, Model
from fedpipe.models.parameters import Parameters, initial_parameters
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.models.settings import ModelChoice

MNIST = ORIGINALS["mnist"].spec()
MODEL = ReferenceCNN().on(MNIST)
LOCAL = LocalTraining(epochs=2, batch_size=32, optimizer="adam", lr=1e-3)
THREADS = Compute(engine="threads", workers=2, device="cpu")
SIZES = (100, 40, 250, 60, 150)  # unequal, so that a mean without weights would show


class Given(ModelChoice):
    """A model that need not stand in the table."""

    given: Model = Field(description="the model")

    @property
    def model(self) -> Model:
        return self.given


def settings_of(kind: type[Federated] = Federated, *, block: dict[str, Any] | None = None, **changes: Any) -> Federated:
    """Settings with `block` as the strategy's parameters."""
    defaults = {"rounds": 3, "clients_per_round": 3, "local": LOCAL}
    blocks = {changes["strategy"]: block} if block else {}
    return kind.model_validate(defaults | changes | blocks)


def experiment_of(
    *, seed: int = 11, model: Model = MODEL.model, compute: Compute = THREADS, kind: type[Federated] = Federated,
    **settings: Any,
) -> Experiment:  # fmt: skip
    """An experiment of those settings that are not the usual ones."""
    return Experiment(seed=seed, model=Given(given=model), federated=settings_of(kind, **settings), compute=compute)


def federate(
    folder: Path, test: Path, *, state: ServerState | None = None, stop: int | None = None, states: Path | None = None,
    on_clients: Callable[[Sequence[ClientReport]], None] = lambda reports: None, **experiment: Any,
) -> list[tuple[ServerState, Round]]:  # fmt: skip
    """The rounds of such an experiment; at most `stop` of them."""
    data = FederatedData(dataset=test.parent, clients=folder)
    rounds = iterate(experiment_of(**experiment), data, state=state, states=states, on_clients=on_clients)
    return [done for done, _ in zip(rounds, range(stop or 10**6), strict=False)]


def start_of(model: Model | Architecture = MODEL, seed: int = 11) -> Parameters:
    """The initial parameters of such an experiment."""
    return initial_parameters(model if isinstance(model, Architecture) else model.on(MNIST), seed)


def client_of(
    folder: Path, states: Path, *, seed: int = 0, architecture: Architecture = MODEL, **settings: Any
) -> Client:
    """What the clients of a folder have in common."""
    return Client(settings_of(**settings), architecture, seed, folder, states, len(SIZES))


def task_of(client: int, *, epochs: int = 2, last_round: int = 0) -> Task:
    """A task for a client as if it were the only one of its cohort."""
    return Task(client, epochs, weight=1.0, client_weight=SIZES[client] / sum(SIZES), last_round=last_round)


def first_round(parameters: Parameters) -> Broadcast:
    return Broadcast(1, parameters)


def weights_of(clients: Sequence[int], objective: str = "examples") -> np.ndarray:
    """What weighs the updates of a cohort's clients, drawn uniformly: their numbers of examples, or all the same."""
    return np.array([SIZES[client] if objective == "examples" else 1 for client in clients], dtype=float)


def p_of(objective: str) -> np.ndarray:
    """The weights of all clients' losses in the objective, p_k."""
    weights = weights_of(range(len(SIZES)), objective)
    return weights / weights.sum()


def same(one: Parameters, other: Parameters) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
