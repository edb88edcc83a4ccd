"""The training loop against gradient descent and Adam written out in NumPy."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from fedpipe.datasets import Dataset
from fedpipe.models.base import normalised
from fedpipe.randomness import generator
from fedpipe.training import Training, train


class Linear(nn.Module):
    """Logistic regression in float64, whose gradient anybody can write down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(784, 10, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1).double())

    def numpy(self) -> list[np.ndarray]:
        """Copies of weight and bias."""
        return [parameter.detach().numpy().copy() for parameter in self.parameters()]


def gradient(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the mean cross-entropy of softmax(x Wᵀ + b), and that loss."""
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y), p.mean(axis=0), loss


def test_a_whole_shard_batch_and_one_epoch_is_a_gradient_step(sample: Dataset):
    images, labels = sample.train.images[:300], sample.train.labels[:300]
    network = Linear()
    weight, bias = network.numpy()
    settings = Training(epochs=1, batch_size=300, optimizer="sgd", lr=0.1)
    losses = list(train(network, images, labels, settings, generator(0, "batches")))
    dw, db, loss = gradient(weight, bias, normalised(images).flatten(1).double().numpy(), labels.numpy())
    np.testing.assert_allclose(network.layer.weight.detach(), weight - 0.1 * dw, atol=1e-12)
    np.testing.assert_allclose(network.layer.bias.detach(), bias - 0.1 * db, atol=1e-12)
    assert losses == [pytest.approx(loss)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_epochs_of_minibatches_are_what_the_papers_write(sample: Dataset, optimizer: Literal["adam", "sgd"]):
    """250 examples in batches of 100, 100 and 50, three epochs; the loss of an epoch is the mean over its examples."""
    images, labels = sample.train.images[:250], sample.train.labels[:250]
    network = Linear()
    parameters = network.numpy()
    settings = Training(epochs=3, batch_size=100, optimizer=optimizer, lr=0.01)
    losses = list(train(network, images, labels, settings, generator(9, "batches", round=2, client=5)))

    x, y = normalised(images).flatten(1).double().numpy(), labels.numpy()
    rng = generator(9, "batches", round=2, client=5)
    moments = [[np.zeros_like(p), np.zeros_like(p)] for p in parameters]
    expected_losses, step = [], 0
    for _ in range(3):
        order, total = rng.permutation(250), 0.0
        for batch in (order[:100], order[100:200], order[200:]):
            *gradients, loss = gradient(parameters[0], parameters[1], x[batch], y[batch])
            total += loss * len(batch)
            step += 1
            for i, g in enumerate(gradients):
                if optimizer == "adam":  # Kingma & Ba 2015, algorithm 1
                    m, v = moments[i]
                    m[:] = 0.9 * m + 0.1 * g
                    v[:] = 0.999 * v + 0.001 * g**2
                    g = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                parameters[i] = parameters[i] - 0.01 * g
        expected_losses.append(total / 250)
    np.testing.assert_allclose(network.layer.weight.detach(), parameters[0], atol=1e-9)
    np.testing.assert_allclose(network.layer.bias.detach(), parameters[1], atol=1e-9)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)  # summed from float32 losses in training
