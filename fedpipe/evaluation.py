"""How good parameters are on given examples: loss, accuracy, confusion."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedpipe.models import Model, Parameters, scratch_network_with
from fedpipe.models.base import normalised

CHUNK = 100  # examples at a time: they stay in the cache. Fixed, because the sums below depend on it


@dataclass(frozen=True)
class Part:
    """The evaluation of some of the examples."""

    losses: tuple[float, ...]  # a sum a chunk
    correct: int
    predictions: Tensor  # (n,) int64


@dataclass(frozen=True)
class Evaluation:
    loss: float  # mean cross-entropy
    accuracy: float  # fraction, 0..1
    predictions: Tensor  # (n,) int64

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Evaluation":
        """The whole from its parts, added in order; all but the last of a multiple of CHUNK examples."""
        parts = list(parts)
        predictions = torch.cat([part.predictions for part in parts])
        return cls(
            loss=sum(loss for part in parts for loss in part.losses) / len(predictions),
            accuracy=sum(part.correct for part in parts) / len(predictions),
            predictions=predictions,
        )


def evaluate(model: Model, parameters: Parameters, images: Tensor, labels: Tensor) -> Evaluation:
    """Evaluates on images (n, 28, 28) uint8 with labels (n,) int64, in float32, on their device."""
    return Evaluation.of([evaluate_part(model, parameters, images, labels)])


def evaluate_part(model: Model, parameters: Parameters, images: Tensor, labels: Tensor) -> Part:
    network = scratch_network_with(model, parameters, images.device).eval()
    losses: list[Tensor] = []
    predictions: list[Tensor] = []
    for chunk, actual in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        with torch.inference_mode():
            logits = network(normalised(chunk))
            losses.append(F.cross_entropy(logits, actual, reduction="sum"))
            predictions.append(logits.argmax(dim=1))
    predicted = torch.cat(predictions)
    correct = int((predicted == labels).sum())
    return Part(tuple(torch.stack(losses).tolist()), correct, predicted.cpu())


def confusion_rows(labels: Tensor, predictions: Tensor, classes: int) -> list[dict[str, int]]:
    """How many examples of each actual class were taken for each class; a row a pair, as in confusion.csv."""
    from sklearn.metrics import confusion_matrix  # here, because it takes a second that training need not pay

    matrix = confusion_matrix(labels.numpy(), predictions.numpy(), labels=range(classes))
    return [
        {"actual": actual, "predicted": predicted, "examples": int(matrix[actual, predicted])}
        for actual in range(classes)
        for predicted in range(classes)
    ]
