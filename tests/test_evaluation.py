"""Loss, accuracy and confusion against scikit-learn and float64."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from fedpipe.datasets import Dataset
from fedpipe.engines import Compute
from fedpipe.evaluation import confusion_rows, evaluate
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


def test_evaluation_does_not_depend_on_the_number_of_workers(sample: Dataset):
    parameters = initial_parameters(MODEL, 1)
    results = []
    for workers in (1, 2, 3):
        with Compute(workers=workers).start() as map:
            result = evaluate(MODEL, parameters, sample.train.images, sample.train.labels, map=map)
            results.append((result.loss, result.accuracy))
    assert len(set(results)) == 1


def test_confusion_counts_every_pair():
    labels, predictions = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    counts = np.zeros((3, 3), int)
    for row in confusion_rows(labels, predictions, 3):
        counts[row["actual"], row["predicted"]] = row["examples"]
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
