"""The centralised baseline: the same network and optimiser on the whole training set, as if nothing were private."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, PositiveInt

from fedpipe.config.section import Section, Seed
from fedpipe.data.datasets import Split
from fedpipe.models import ModelChoice
from fedpipe.models.parameters import Parameters, initial_parameters, network_with, parameters_of, scratch_network_with
from fedpipe.system.machine import train_on_threads
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.evaluation import Evaluation, evaluate
from fedpipe.training.loop import train
from fedpipe.training.settings import Training


class Baseline(Training):
    """Train the model centrally."""

    epochs: PositiveInt = Field(default=15, description="Passes over the whole training set.")
    threads: PositiveInt = Field(
        default=2, description="Threads of torch. It is not under compute, because float results depend on it."
    )


class CentralisedExperiment(Section):
    """A centralised training: all that its result follows from."""

    seed: Seed
    model: ModelChoice = Field(description="The network that is trained.")
    baseline: Baseline = Field(description="How it is trained.")
    compute: Arithmetic = Field(description="Device and precision.")


@dataclass(frozen=True)
class Epoch:
    """What an epoch did."""

    number: int  # 1, 2, ...
    train_loss: float  # mean over the epoch's batches, as trained
    test: Evaluation

    def row(self) -> dict[str, Any]:
        """Return the epoch's row of epochs.csv."""
        return {
            "epoch": self.number,
            "train_loss": self.train_loss,
            "test_loss": self.test.loss,
            "test_accuracy": self.test.accuracy,
        }


def run_epochs(
    experiment: CentralisedExperiment, classes: int, train_split: Split, test: Split
) -> Iterator[tuple[Parameters, Epoch]]:
    """Train on the whole training set, and yield after each epoch the parameters and what the epoch did."""
    settings, architecture = experiment.baseline, experiment.model.model.for_classes(classes)
    train_on_threads(settings.threads)  # a parameter: float sums depend on how torch splits them
    device = experiment.compute.torch_device()
    images, labels, test_images, test_labels = (
        tensor.to(device) for tensor in (train_split.images, train_split.labels, test.images, test.labels)
    )
    # Both trainings start from the same parameters.
    network = network_with(architecture, initial_parameters(architecture, experiment.seed), device)
    rng = generator(experiment.seed, "baseline batches")
    for number, train_loss in enumerate(train(network, images, labels, settings, rng, experiment.compute), start=1):
        parameters = parameters_of(network)
        tested = scratch_network_with(architecture, parameters, device)
        yield parameters, Epoch(number, train_loss, evaluate(tested, test_images, test_labels))
