"""The centralised baseline: the same network and optimiser on the whole training set, as if nothing were private."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from fedpipe.arithmetic import PLAIN, Arithmetic
from fedpipe.datasets import Split
from fedpipe.evaluation import Evaluation, evaluate
from fedpipe.machine import train_on_threads
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
    parameters: Parameters,
    settings: Baseline,
    model: Model,
    seed: int,
    train_split: Split,
    test: Split,
    arithmetic: Arithmetic = PLAIN,
) -> Iterator[tuple[Parameters, Epoch]]:
    """Trains from the given parameters; yields after each epoch the new ones and what the epoch did."""
    train_on_threads(settings.threads)  # a parameter: float sums depend on how torch splits them
    device = arithmetic.torch_device()
    images, labels, test_images, test_labels = (
        tensor.to(device) for tensor in (train_split.images, train_split.labels, test.images, test.labels)
    )
    network = network_with(model, parameters, device)
    losses = train(network, images, labels, settings, generator(seed, "baseline batches"), arithmetic)
    for number, train_loss in enumerate(losses, start=1):
        parameters = parameters_of(network)
        yield parameters, Epoch(number, train_loss, evaluate(model, parameters, test_images, test_labels))
