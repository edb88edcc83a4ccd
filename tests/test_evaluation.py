"""Loss, accuracy and confusion against scikit-learn and float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss
from torch import nn

from fedpipe.data.datasets import Dataset
from fedpipe.models.parameters import initial_parameters, network_with
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.training.evaluation import CHUNK, Evaluation, Part, confusion_rows, evaluate, evaluate_part
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
    assert found.macro_f1 == pytest.approx(f1_score(labels, logits.argmax(dim=1), average="macro"), rel=1e-12)
    expected = confusion_matrix(labels, logits.argmax(dim=1), labels=range(10))
    assert found.confusion.tolist() == expected.tolist()


@pytest.mark.parametrize("order", [1, -1])
def test_evaluation_is_the_same_in_parts_whatever_their_order(sample: Dataset, order: int):
    network = a_network()
    images, labels = sample.train.images, sample.train.labels
    whole = evaluate(network, images, labels, MNIST)
    parts = [
        evaluate_part(network, images[start : start + 3 * CHUNK], labels[start : start + 3 * CHUNK], MNIST, start)
        for start in range(0, len(labels), 3 * CHUNK)
    ]
    together = Evaluation.of(parts[::order], 10)
    assert together.without_confusion().encode() == whole.without_confusion().encode()
    assert torch.equal(together.confusion, whole.confusion)


@given(data=st.data(), classes=st.integers(2, 12))
def test_macro_f1_and_confusion_are_scikit_learns_whatever_classes_are_missing(data: st.DataObject, classes: int):
    """From few examples, so that some classes are neither actual nor predicted."""
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=15))
    actual, predicted = zip(*pairs, strict=True)
    part = Part(0, (1.0,), torch.tensor([classes * a + p for a, p in pairs]))
    found = Evaluation.of([part], classes)
    assert found.macro_f1 == pytest.approx(f1_score(actual, predicted, average="macro"), rel=1e-12)
    assert found.accuracy == accuracy_score(actual, predicted)
    assert found.confusion.tolist() == confusion_matrix(actual, predicted, labels=range(classes)).tolist()


def test_the_rows_of_a_confusion_matrix_are_its_cells():
    rows = confusion_rows(torch.tensor([[1, 2], [0, 3]]))
    assert [tuple(row.values()) for row in rows] == [(0, 0, 1), (0, 1, 2), (1, 0, 0), (1, 1, 3)]
    assert list(rows[0]) == ["actual", "predicted", "examples"]
