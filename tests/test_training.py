"""The training loop against gradient descent and Adam written out in NumPy."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpipe.arithmetic import PLAIN
from fedpipe.datasets import Dataset
from fedpipe.models import flat, initial_parameters, network_with, parameters_of
from fedpipe.models.base import normalised
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.randomness import generator
from fedpipe.training import Correction, MeanGradient, Training, train


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


@pytest.mark.parametrize(
    "settings",
    [
        Training(optimizer="sgd", lr=0.01, momentum=0.9),
        Training(optimizer="sgd", lr=0.01, weight_decay=0.3),
        Training(optimizer="sgd", lr=0.01, momentum=0.5, weight_decay=0.1, clip_norm=0.4),
        Training(optimizer="adam", lr=0.01, weight_decay=0.3, clip_norm=0.4),
        Training(optimizer="sgd", lr=0.01, clip_norm=1e6),
    ],
    ids=str,
)
def test_momentum_weight_decay_and_clipping_are_torchs(sample: Dataset, settings: Training):
    """By the optimiser objects and the clipping of torch, which the training loop does without."""
    images, labels = sample.train.images[:250], sample.train.labels[:250]
    ours, theirs = Linear(), Linear()
    settings = settings.model_copy(update={"epochs": 3, "batch_size": 100})
    list(train(ours, images, labels, settings, generator(9, "batches")))
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    optimizer = (
        torch.optim.SGD(theirs.parameters(), momentum=settings.momentum, **common)
        if settings.optimizer == "sgd"
        else torch.optim.Adam(theirs.parameters(), **common)
    )
    rng = generator(9, "batches")
    for _ in range(3):
        for batch in torch.from_numpy(rng.permutation(250)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(theirs(normalised(images[batch])), labels[batch]).backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(theirs.parameters(), settings.clip_norm)
            optimizer.step()
    for one, other in zip(ours.numpy(), theirs.numpy(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_batch_size_of_none_is_the_whole_shard(sample: Dataset):
    one, other = Linear(), Linear()
    for network, batch_size in ((one, None), (other, 250)):
        settings = Training(epochs=2, batch_size=batch_size, optimizer="sgd", lr=0.01)
        list(train(network, sample.train.images[:250], sample.train.labels[:250], settings, generator(9, "batches")))
    assert all(np.array_equal(a, b) for a, b in zip(one.numpy(), other.numpy(), strict=True))


@given(st.integers(1, 500), st.integers(1, 5), st.none() | st.integers(1, 100))
def test_steps_are_counted_as_they_are_taken(examples: int, epochs: int, batch_size: int | None):
    expected = epochs * len(torch.arange(examples).split(batch_size or examples))
    assert Training(epochs=epochs, batch_size=batch_size).steps(examples) == expected


def test_the_mean_gradient_and_the_correction_add_up_to_the_way_gone(sample: Dataset):
    """Plain SGD: w_end - w_start = -lr * steps * (mean gradient + constant), if nothing is proximal."""
    network, constant = Linear(), torch.linspace(-0.01, 0.01, 7850, dtype=torch.float64)
    start = np.concatenate([p.ravel() for p in network.numpy()])
    settings = Training(epochs=2, batch_size=100, optimizer="sgd", lr=0.01)
    gradient, images, labels = MeanGradient(), sample.train.images[:250], sample.train.labels[:250]
    list(train(network, images, labels, settings, generator(9, "b"), PLAIN, Correction(constant), gradient))
    way = np.concatenate([p.ravel() for p in network.numpy()]) - start
    np.testing.assert_allclose(way, -0.01 * 6 * (gradient.flat() + constant), atol=1e-12)


def test_a_correction_goes_to_the_parameter_it_belongs_to(sample: Dataset):
    """Also where a convolution's weights lie in another order in memory than in the vector."""
    model = ReferenceCNN()
    start = initial_parameters(model, 0)
    vector = torch.linspace(-1, 1, 28_938)
    settings = Training(epochs=1, batch_size=None, optimizer="sgd", lr=0.1)
    ends = []
    for correction in (None, Correction(vector)):
        network, images = network_with(model, start), sample.train.images[:20]
        list(train(network, images, sample.train.labels[:20], settings, generator(0, "b"), PLAIN, correction))
        ends.append(flat(parameters_of(network).values()))
    torch.testing.assert_close(ends[1] - ends[0], -0.1 * vector, rtol=0, atol=1e-6)
