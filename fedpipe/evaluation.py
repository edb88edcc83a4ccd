"""How good parameters are on given examples: loss, accuracy, confusion."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedpipe.models import Model, Parameters, network_with
from fedpipe.models.base import normalised

CHUNK = 100  # examples at a time: they stay in the cache. Fixed, because the sums below depend on it


@dataclass(frozen=True)
class Evaluation:
    loss: float  # mean cross-entropy
    accuracy: float  # fraction, 0..1
    predictions: Tensor  # (n,) int64


def evaluate(
    model: Model, parameters: Parameters, images: Tensor, labels: Tensor, *, map: Callable[..., Iterable[Any]] = map
) -> Evaluation:
    """Evaluates on images (n, 28, 28) uint8 with labels (n,) int64.

    `map` may run the chunks at the same time; it returns them in order, and they are added in order.
    """
    network = network_with(model, parameters).eval()

    def part(start: int) -> tuple[float, Tensor]:
        with torch.inference_mode():
            logits = network(normalised(images[start : start + CHUNK]))
            loss = F.cross_entropy(logits, labels[start : start + CHUNK], reduction="sum")
            return loss.item(), logits.argmax(dim=1)

    losses, predictions = zip(*map(part, range(0, len(labels), CHUNK)), strict=True)
    predicted = torch.cat(predictions)
    return Evaluation(
        loss=sum(losses) / len(labels),
        accuracy=(predicted == labels).sum().item() / len(labels),
        predictions=predicted,
    )


def confusion_rows(labels: Tensor, predictions: Tensor, classes: int) -> list[dict[str, int]]:
    """How many examples of each actual class were taken for each class; a row a pair, as in confusion.csv."""
    from sklearn.metrics import confusion_matrix  # here, because it takes a second that training need not pay

    matrix = confusion_matrix(labels.numpy(), predictions.numpy(), labels=range(classes))
    return [
        {"actual": actual, "predicted": predicted, "examples": int(matrix[actual, predicted])}
        for actual in range(classes)
        for predicted in range(classes)
    ]
