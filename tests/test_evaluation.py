"""Loss, accuracy and confusion against scikit-learn and float64."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from fedpipe.datasets import Dataset
from fedpipe.evaluation import CHUNK, Evaluation, confusion_rows, evaluate, evaluate_part
from fedpipe.models import initial_parameters, network_with
from fedpipe.models.base import normalised
from fedpipe.models.reference_cnn import ReferenceCNN

MODEL = ReferenceCNN()


@pytest.mark.parametrize("examples", [1, 99, 100, 101, 3500])
def test_evaluation_agrees_with_scikit_learn(sample: Dataset, examples: int):
    parameters = initial_parameters(MODEL, 1)
    images, labels = sample.train.images[-examples:], sample.train.labels[-examples:]
    with torch.inference_mode():
        logits = network_with(MODEL, parameters)(normalised(images)).double()
    found = evaluate(MODEL, parameters, images, labels)
    probabilities = torch.softmax(logits, dim=1).numpy()
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-5)
    assert found.accuracy == accuracy_score(labels, probabilities.argmax(axis=1))
    assert torch.equal(found.predictions, logits.argmax(dim=1))


def test_evaluation_is_the_same_in_parts(sample: Dataset):
    parameters = initial_parameters(MODEL, 1)
    images, labels = sample.train.images, sample.train.labels
    whole = evaluate(MODEL, parameters, images, labels)
    parts = [
        evaluate_part(MODEL, parameters, images[at : at + 3 * CHUNK], labels[at : at + 3 * CHUNK])
        for at in range(0, len(labels), 3 * CHUNK)
    ]
    together = Evaluation.of(parts)
    assert (together.loss, together.accuracy) == (whole.loss, whole.accuracy)
    assert torch.equal(together.predictions, whole.predictions)


def test_confusion_counts_every_pair():
    labels, predictions = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    counts = np.zeros((3, 3), int)
    for row in confusion_rows(labels, predictions, 3):
        counts[row["actual"], row["predicted"]] = row["examples"]
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
