"""How good a network is on given examples: loss, accuracy, confusion."""

import math
from collections.abc import Iterable
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
    correct: int
    predictions: Tensor  # (n,) int64


@dataclass(frozen=True)
class Evaluation(Record):
    """The evaluation of a network."""

    loss: float  # mean cross-entropy
    accuracy: float  # fraction, 0..1
    predictions: Tensor  # (n,) int64; none in a history

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Self:
        """Return the whole from its parts, in any order; all but the last must be of a multiple of CHUNK examples."""
        parts = sorted(parts, key=lambda part: part.start)
        predictions = torch.cat([part.predictions for part in parts])
        return cls(
            loss=sum(loss for part in parts for loss in part.losses) / len(predictions),
            accuracy=sum(part.correct for part in parts) / len(predictions),
            predictions=predictions,
        )

    def diverged(self, classes: int) -> bool:
        """Tell whether training has diverged: the loss is no number, or far above that of guessing."""
        return not self.loss <= FAR_ABOVE * math.log(max(2, classes))

    def without_predictions(self) -> Self:
        """Return loss and accuracy alone."""
        return replace(self, predictions=torch.empty(0, dtype=torch.int64))


def evaluate(network: nn.Module, images: Tensor, labels: Tensor, spec: DataSpec) -> Evaluation:
    """Evaluate a network, in float32, on the device of network and examples.

    Args:
        network: takes what `normalised` returns.
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        spec: what they are like.
    """
    return Evaluation.of([evaluate_part(network, images, labels, spec)])


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
    predicted = torch.cat(predictions)
    correct = int((predicted == labels).sum())
    return Part(start, tuple(torch.stack(losses).tolist()), correct, predicted.cpu())


def confusion_rows(labels: Tensor, predictions: Tensor, classes: int) -> list[dict[str, int]]:
    """Count the examples of each actual class that were taken for each class; a row for each pair."""
    from sklearn.metrics import confusion_matrix  # here, because it takes a second that training need not pay

    matrix = confusion_matrix(labels.numpy(), predictions.numpy(), labels=range(classes))
    return [
        {"actual": actual, "predicted": predicted, "examples": int(matrix[actual, predicted])}
        for actual in range(classes)
        for predicted in range(classes)
    ]
