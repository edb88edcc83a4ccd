"""Loss, accuracy and confusion against scikit-learn and float64."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from fedpipe.data.datasets import Dataset
from fedpipe.models.parameters import initial_parameters, network_with
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.training.evaluation import CHUNK, Evaluation, confusion_rows, evaluate, evaluate_part
from fedpipe.training.images import normalised
from tests.federations import MNIST


def a_network() -> nn.Module:
    architecture = ReferenceCNN().on(MNIST)
    return network_with(architecture, initial_parameters(architecture, 1))


@pytest.mark.parametrize("examples", [1, 99, 100, 101, 3500])
def test_evaluation_agrees_with_scikit_learn(sample: Dataset, examples: int):
    network = a_network()
    images, labels = sample.train.images[-examples:], sample.train.labels[-examples:]
    with torch.inference_mode():
        logits = network(normalised(images, MNIST)).double()
    found = evaluate(network, images, labels, MNIST)
    probabilities = torch.softmax(logits, dim=1).numpy()
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-5)
    assert found.accuracy == accuracy_score(labels, probabilities.argmax(axis=1))
    assert torch.equal(found.predictions, logits.argmax(dim=1))


@pytest.mark.parametrize("order", [1, -1])
def test_evaluation_is_the_same_in_parts_whatever_their_order(sample: Dataset, order: int):
    network = a_network()
    images, labels = sample.train.images, sample.train.labels
    whole = evaluate(network, images, labels, MNIST)
    parts = [
        evaluate_part(network, images[start : start + 3 * CHUNK], labels[start : start + 3 * CHUNK], MNIST, start)
        for start in range(0, len(labels), 3 * CHUNK)
    ]
    together = Evaluation.of(parts[::order])
    assert (together.loss, together.accuracy) == (whole.loss, whole.accuracy)
    assert torch.equal(together.predictions, whole.predictions)


def test_confusion_counts_every_pair():
    labels, predictions = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    counts = np.zeros((3, 3), int)
    for row in confusion_rows(labels, predictions, 3):
        counts[row["actual"], row["predicted"]] = row["examples"]
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
