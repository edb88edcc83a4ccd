"""The centralised baseline: the same network and optimiser on the whole training set, as if nothing were private."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt

from fedpipe.datasets import Split
from fedpipe.evaluation import Evaluation, evaluate
from fedpipe.models import Model, Parameters, network_with, parameters_of
from fedpipe.randomness import generator
from fedpipe.training import Training, train


class Baseline(Training):
    """Centralised training."""

    epochs: PositiveInt = 15
    threads: PositiveInt = 2


@dataclass(frozen=True)
class Epoch:
    """What an epoch did."""

    number: int  # 1, 2, ...
    train_loss: float  # mean over the epoch's batches, as trained
    test: Evaluation

    def row(self) -> dict[str, Any]:
        """As in epochs.csv."""
        return {
            "epoch": self.number,
            "train_loss": self.train_loss,
            "test_loss": self.test.loss,
            "test_accuracy": self.test.accuracy,
        }


def run(
    parameters: Parameters, settings: Baseline, model: Model, seed: int, train_split: Split, test: Split
) -> Iterator[tuple[Parameters, Epoch]]:
    """Trains from the given parameters; yields after each epoch the new ones and what the epoch did."""
    torch.set_num_threads(settings.threads)  # a parameter: float sums depend on how torch splits them
    network = network_with(model, parameters)
    losses = train(network, train_split.images, train_split.labels, settings, generator(seed, "baseline batches"))
    for number, train_loss in enumerate(losses, start=1):
        parameters = parameters_of(network)
        yield parameters, Epoch(number, train_loss, evaluate(model, parameters, test.images, test.labels))
