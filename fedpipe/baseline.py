"""The centralised baseline: the same network and optimiser on the whole training set, as if nothing were private."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import CheckpointEvery, OnDivergence, PositiveInt, Section, Seed
from fedpipe.data import datasets
from fedpipe.data.datasets import Split
from fedpipe.models.parameters import Parameters, initial_parameters, network_with, parameters_of, scratch_network_with
from fedpipe.models.settings import ModelChoice
from fedpipe.spec import DataSpec
from fedpipe.system.checkpoints import checkpoints, origin
from fedpipe.system.machine import train_on_threads
from fedpipe.system.randomness import generator
from fedpipe.system.records import Record
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.evaluation import Evaluation, Evaluations, Evaluator, evaluate
from fedpipe.training.loop import train
from fedpipe.training.optimizers import OPTIMIZERS
from fedpipe.training.settings import Training


class Baseline(Training):
    """Train the model centrally."""

    epochs: PositiveInt = Field(default=15, description="Passes over the whole training set.")
    threads: int = Field(
        default=2,
        gt=0,
        le=1024,
        description="Threads of torch. It is not under compute, because float results depend on it.",
    )

    on_divergence: OnDivergence = "stop"


class CentralisedCompute(Arithmetic):
    """Say how a centralised training is computed."""

    checkpoint_every: CheckpointEvery = 1.0


class CentralisedExperiment(Section):
    """A centralised training: all that its result follows from."""

    seed: Seed
    model: ModelChoice = Field(description="The network that is trained.")
    baseline: Baseline = Field(description="How it is trained.")
    compute: CentralisedCompute = Field(description="How it is computed.")


@dataclass(frozen=True)
class Epoch(Record):
    """What an epoch did."""

    number: int  # 1, 2, ...
    train_loss: float  # mean over the epoch's batches, as trained
    evaluations: Evaluations
    training_seconds: float = field(compare=False)
    evaluation_seconds: float = field(compare=False)

    def without_confusion(self) -> Self:
        """Return the epoch as a history keeps it: the tables need no more."""
        return replace(self, evaluations=self.evaluations.without_confusion())

    def row(self) -> dict[str, Any]:
        """Return the epoch's row of epochs.csv."""
        return {
            "epoch": self.number,
            "train_loss": self.train_loss,
            **self.evaluations.row(),
        }


@dataclass(frozen=True)
class TrainingState(Record):
    """All that an epoch needs of the epochs before it."""

    epoch: Epoch  # the last one done
    parameters: Parameters
    optimizer: tuple[Tensor, ...]
    rng: Mapping[str, Any]  # which draws the order of the examples


@dataclass(frozen=True)
class Result(datasets.OnDataset):
    """What a centralised training came to."""

    examples: int  # of the training set
    parameters: Parameters
    epochs: tuple[Epoch, ...]

    @property
    def evaluations(self) -> Evaluations:
        """The last model's."""
        return self.epochs[-1].evaluations

    @property
    def test(self) -> Evaluation:
        """The last model's evaluation on the test set. With validation data there is none before training is over."""
        assert self.evaluations.test, "training is over"
        return self.evaluations.test

    @property
    def diverged(self) -> bool:
        """Whether training diverged."""
        return _diverged(self.evaluations, self.spec)

    def epoch_rows(self) -> list[dict[str, Any]]:
        """Return the rows of epochs.csv."""
        return [epoch.row() | {"examples_processed": epoch.number * self.examples} for epoch in self.epochs]

    def timing_rows(self) -> list[dict[str, Any]]:
        """Return the rows of timings.csv, which two runs never have in common."""
        return [
            {
                "epoch": epoch.number,
                "training_seconds": epoch.training_seconds,
                "evaluation_seconds": epoch.evaluation_seconds,
            }
            for epoch in self.epochs
        ]

    def headline(self) -> dict[str, Any]:
        """Return what `dvc metrics` shows of centralised training: its test accuracy, or no value if it diverged."""
        test = self.evaluations.test
        return {"centralised": test.accuracy if test and not self.diverged else None}

    def figures(self) -> dict[str, Any]:
        """Return all figures of the training as a whole."""
        return {
            "dataset": self.dataset,
            **self.evaluations.metrics(),
            "diverged": self.diverged,
            "epochs": len(self.epochs),
            "examples_processed": len(self.epochs) * self.examples,
        }


def run(
    experiment: CentralisedExperiment,
    dataset: Path,
    *,
    checkpoint: Path | None = None,
    recorded_in: Path | None = None,
    on_resume: Callable[[Result], None] = lambda result: None,
    on_epoch: Callable[[Result], None] = lambda result: None,
    on_end: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Train to the end.

    With checkpoints, a training that was interrupted goes on after the last epoch that was saved, with the same bits as
    if it had not been.

    Args:
        experiment: its parameters.
        dataset: a folder, as `fedpipe.data.datasets.save` writes it.
        checkpoint: a folder for the checkpoints of any number of experiments; None saves none.
        recorded_in: a file that somebody writes who records the result, such as dvc.lock: until then its checkpoints
            stay. None deletes them in the end.
        on_resume: told of what was done before, if training goes on from a checkpoint.
        on_epoch: told of what is done after each epoch.
        on_end: told of the result before its checkpoints are deleted, to save it.

    Raises:
        UserError: the data is missing or damaged.
    """
    description = datasets.describe(dataset / "dataset.json")
    train_split, test = (datasets.load(dataset / f"{name}.safetensors") for name in ("train", "test"))
    validation = datasets.load(dataset / "validation.safetensors") if description.validation_examples else None
    seconds = experiment.compute.checkpoint_every

    def follows_from() -> dict[str, Any]:
        parameters = experiment.model_dump(mode="json", exclude={"compute"})
        compute, files = experiment.compute, [dataset / "dataset.json"]
        return origin(parameters, compute.precision, compute.torch_device(), files)

    with checkpoints(checkpoint, follows_from, TrainingState, Epoch, seconds) as saved:
        state, epochs = saved.load() or (None, [])
        if state:
            epochs[-1] = state.epoch

        def result() -> Result:
            assert state is not None, "there is at least one epoch"
            return Result(description, len(train_split), state.parameters, tuple(epochs))

        if state:
            on_resume(result())
        training = run_epochs(experiment, description.spec, train_split, test, validation, state)
        for state in training:
            epochs[-1:] = [*(earlier.without_confusion() for earlier in epochs[-1:]), state.epoch]
            on_epoch(result())
            saved.save(state.epoch.number, state, state.epoch.without_confusion())
        on_end(result())
        saved.finish(recorded_in)
        return result()


def run_epochs(
    experiment: CentralisedExperiment,
    spec: DataSpec,
    train_split: Split,
    test: Split,
    validation: Split | None = None,
    state: TrainingState | None = None,
) -> Iterator[TrainingState]:
    """Train on the whole training set, and yield the state after each epoch.

    Args:
        experiment: its parameters.
        spec: what their images and labels are like.
        train_split: the training set.
        test: the test set.
        validation: the validation data, if there are any.
        state: one that this function yielded, to go on from; None begins.
    """
    settings, architecture = experiment.baseline, experiment.model.model.on(spec)

    def is_over(number: int, evaluations: Evaluations) -> bool:
        return number >= settings.epochs or (settings.on_divergence == "stop" and _diverged(evaluations, spec))

    if state and is_over(state.epoch.number, state.epoch.evaluations):
        return
    train_on_threads(settings.threads)  # a parameter: float sums depend on how torch splits them
    device = experiment.compute.torch_device()

    def on(examples: Split) -> Callable[[Parameters], Evaluation]:
        images, labels = examples.images.to(device), examples.labels.to(device)
        return lambda parameters: evaluate(scratch_network_with(architecture, parameters, device), images, labels, spec)

    evaluator = Evaluator(on(test), on(validation) if validation else None)
    images, labels = train_split.images.to(device), train_split.labels.to(device)
    # Both trainings start from the same parameters.
    start = state.parameters if state else initial_parameters(architecture, experiment.seed)
    network = network_with(architecture, start, device)
    optimizer = OPTIMIZERS[settings.optimizer](list(network.parameters()), settings)
    rng = generator(experiment.seed, "baseline batches")
    if state:
        optimizer.restore(state.optimizer)
        rng.bit_generator.state = state.rng
    done = state.epoch.number if state else 0
    left = settings.model_copy(update={"epochs": settings.epochs - done})
    begun = time.monotonic()
    losses = train(network, images, labels, spec, left, rng, experiment.compute, optimizer=optimizer)
    for number, train_loss in enumerate(losses, start=done + 1):
        trained, parameters = time.monotonic(), parameters_of(network)
        evaluations = evaluator.during_training(parameters)
        if over := is_over(number, evaluations):
            evaluations = evaluator.in_the_end(parameters, evaluations)
        epoch = Epoch(number, train_loss, evaluations, trained - begun, time.monotonic() - trained)
        saved = tuple(tensor.cpu().clone(memory_format=torch.contiguous_format) for tensor in optimizer.state())
        yield TrainingState(epoch, parameters, saved, rng.bit_generator.state)
        if over:
            return
        begun = time.monotonic()


def _diverged(evaluations: Evaluations, spec: DataSpec) -> bool:
    assert evaluations.deciding, "every epoch is evaluated"
    return evaluations.deciding.diverged(spec.classes)
