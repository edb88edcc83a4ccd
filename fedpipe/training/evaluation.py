"""How good a network is on examples that nobody trains on: loss, accuracy, confusion; and when it is evaluated."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.spec import DataSpec
from fedpipe.system.records import Record
from fedpipe.training.images import normalised

FAR_ABOVE = 100  # times the loss of guessing: no model that learns is that wrong, and that sure of it
CHUNK = 100  # examples at a time: they stay in the cache. Fixed, because the sums below depend on it


@dataclass(frozen=True)
class Part:
    """The evaluation of consecutive examples."""

    start: int  # the first one's place among all examples
    losses: tuple[float, ...]  # a sum for each chunk
    cells: Tensor  # (n,) int64: of the confusion matrix, the one that each example is counted in, row by row


@dataclass(frozen=True)
class Evaluation(Record):
    """The evaluation of a network."""

    loss: float  # mean cross-entropy
    accuracy: float  # fraction, 0..1
    macro_f1: float  # mean of the classes' F1 scores, 0..1
    confusion: Tensor  # (classes, classes) int64: examples by actual and predicted class; empty in a history
    backdoor: float | None = None  # the success rate of attackers' backdoor on these examples, if there is one

    @classmethod
    def of(cls, parts: Iterable[Part], classes: int) -> Self:
        """Return the whole from its parts.

        Args:
            parts: in any order; all but the last must be of a multiple of CHUNK examples.
            classes: how many labels there are.
        """
        parts = sorted(parts, key=lambda part: part.start)
        counts = torch.cat([part.cells for part in parts]).bincount(minlength=classes**2)
        confusion = counts.view(classes, classes)
        examples = int(counts.sum())
        return cls(
            loss=sum(loss for part in parts for loss in part.losses) / examples,
            accuracy=int(confusion.trace()) / examples,
            macro_f1=_macro_f1(confusion),
            confusion=confusion,
        )

    def diverged(self, classes: int) -> bool:
        """Tell whether training has diverged: the loss is no number, or far above that of guessing."""
        return not self.loss <= FAR_ABOVE * math.log(max(2, classes))

    def without_confusion(self) -> Self:
        """Return the figures alone, as a history keeps them: many classes make a large matrix."""
        return replace(self, confusion=torch.empty(0, 0, dtype=torch.int64))


@dataclass(frozen=True)
class Evaluations(Record):
    """The evaluations of one model, as far as there were any."""

    validation: Evaluation | None = None
    test: Evaluation | None = None

    @property
    def deciding(self) -> Evaluation | None:
        """The one that training is stopped by: on validation data where there are any, else on the test set."""
        return self.validation or self.test

    @property
    def backdoor(self) -> float | None:
        """The success rate of attackers' backdoor, if there is one: on the test set, or else on validation data."""
        last = self.test or self.validation
        return last and last.backdoor

    def by_data(self) -> dict[str, Evaluation]:
        """Return those that there are, by what the examples are called."""
        both = {"validation": self.validation, "test": self.test}
        return {data: evaluation for data, evaluation in both.items() if evaluation}

    def row(self) -> dict[str, float | None]:
        """Return the columns that rounds.csv and epochs.csv have in common."""
        return {
            "validation_loss": self.validation and self.validation.loss,
            "validation_accuracy": self.validation and self.validation.accuracy,
            "validation_macro_f1": self.validation and self.validation.macro_f1,
            "test_loss": self.test and self.test.loss,
            "test_accuracy": self.test and self.test.accuracy,
            "test_macro_f1": self.test and self.test.macro_f1,
        }

    def metrics(self) -> dict[str, float | None]:
        """Return the figures that experiments are compared by: on the test set, and on validation data if any."""
        figures = {"accuracy": self.test and self.test.accuracy, "loss": self.test and self.test.loss}
        if self.validation:
            figures |= {"validation_accuracy": self.validation.accuracy, "validation_loss": self.validation.loss}
        return figures

    def without_confusion(self) -> Self:
        """Return the figures alone."""
        return replace(
            self,
            validation=self.validation and self.validation.without_confusion(),
            test=self.test and self.test.without_confusion(),
        )


@dataclass(frozen=True)
class Evaluator:
    """Evaluate the models of a training, so that the test set is used once where there are validation data."""

    on_test_set: Callable[[Mapping[str, Tensor]], Evaluation]  # of a model's parameters
    on_validation_data: Callable[[Mapping[str, Tensor]], Evaluation] | None = None  # None where there are none

    def during_training(self, parameters: Mapping[str, Tensor]) -> Evaluations:
        """Evaluate a model by which it is decided whether training goes on."""
        if self.on_validation_data:
            return Evaluations(validation=self.on_validation_data(parameters))
        return Evaluations(test=self.on_test_set(parameters))

    def in_the_end(self, parameters: Mapping[str, Tensor], so_far: Evaluations) -> Evaluations:
        """Evaluate the last model on the test set, unless it has been.

        Args:
            parameters: the model's.
            so_far: its evaluations.
        """
        return so_far if so_far.test else replace(so_far, test=self.on_test_set(parameters))


def evaluate(network: nn.Module, images: Tensor, labels: Tensor, spec: DataSpec) -> Evaluation:
    """Evaluate a network, in float32, on the device of network and examples.

    Args:
        network: takes what `normalised` returns.
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        spec: what they are like.
    """
    return Evaluation.of([evaluate_part(network, images, labels, spec)], spec.classes)


def evaluate_part(network: nn.Module, images: Tensor, labels: Tensor, spec: DataSpec, start: int = 0) -> Part:
    """Evaluate on examples that begin at the place `start` among all of them."""
    network.eval()
    losses: list[Tensor] = []
    predictions: list[Tensor] = []
    for chunk, actual in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        with torch.inference_mode():
            logits = network(normalised(chunk, spec))
            losses.append(F.cross_entropy(logits, actual, reduction="sum"))
            predictions.append(logits.argmax(dim=1))
    cells = labels * spec.classes + torch.cat(predictions)
    return Part(start, tuple(torch.stack(losses).tolist()), cells.cpu())


def confusion_rows(confusion: Tensor) -> list[dict[str, int]]:
    """Return a row for each pair of classes: how many examples of the actual one were taken for the predicted one.

    Args:
        confusion: of an `Evaluation`.
    """
    return [
        {"actual": actual, "predicted": predicted, "examples": examples}
        for actual, row in enumerate(confusion.tolist())
        for predicted, examples in enumerate(row)
    ]


def _macro_f1(confusion: Tensor) -> float:
    """Return the mean F1 score of the classes that are there, as actual or as predicted ones.

    The F1 score of a class is the harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).
    """
    right, there = confusion.diagonal().double(), (confusion.sum(0) + confusion.sum(1)).double()
    return float((2 * right / there)[there > 0].mean())
