"""The training loop against gradient descent and Adam written out in NumPy."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpipe.data.datasets import Dataset
from fedpipe.models.parameters import flat, initial_parameters, network_with, parameters_of
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.models.two_nn import TwoNN
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import PLAIN, Arithmetic
from fedpipe.training.images import normalised
from fedpipe.training.loop import Correction, MeanGradient, WithOwnSGDStep, loss_and_gradients, train
from fedpipe.training.settings import Training
from tests.federations import MNIST


class Linear(nn.Module):
    """Logistic regression in float64, whose gradient is written out in `gradient`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(784, 10, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1).double())

    def numpy(self) -> list[np.ndarray]:
        """Return copies of weight and bias."""
        return [parameter.detach().numpy().copy() for parameter in self.parameters()]


def gradient(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the gradients of the mean cross-entropy of softmax(x Wᵀ + b) by W and by b, and that loss."""
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y), p.mean(axis=0), loss


def test_one_epoch_with_all_examples_in_a_batch_is_a_gradient_step(sample: Dataset):
    images, labels = sample.train.images[:300], sample.train.labels[:300]
    network = Linear()
    weight, bias = network.numpy()
    settings = Training(epochs=1, batch_size=300, optimizer="sgd", lr=0.1)
    losses = list(train(network, images, labels, MNIST, settings, generator(0, "batches")))
    dw, db, loss = gradient(weight, bias, normalised(images, MNIST).flatten(1).double().numpy(), labels.numpy())
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
    losses = list(train(network, images, labels, MNIST, settings, generator(9, "batches", round=2, client=5)))

    x, y = normalised(images, MNIST).flatten(1).double().numpy(), labels.numpy()
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
    """The other side trains with torch's optimiser objects and clipping, which the training loop does without."""
    images, labels = sample.train.images[:250], sample.train.labels[:250]
    ours, theirs = Linear(), Linear()
    settings = settings.model_copy(update={"epochs": 3, "batch_size": 100})
    list(train(ours, images, labels, MNIST, settings, generator(9, "batches")))
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
            F.cross_entropy(theirs(normalised(images[batch], MNIST)), labels[batch]).backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(theirs.parameters(), settings.clip_norm)
            optimizer.step()
    for one, other in zip(ours.numpy(), theirs.numpy(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_batch_size_of_none_takes_all_examples_as_one_batch(sample: Dataset):
    one, other = Linear(), Linear()
    for network, batch_size in ((one, None), (other, 250)):
        settings = Training(epochs=2, batch_size=batch_size, optimizer="sgd", lr=0.01)
        list(
            train(
                network, sample.train.images[:250], sample.train.labels[:250], MNIST, settings, generator(9, "batches")
            )
        )
    assert all(np.array_equal(a, b) for a, b in zip(one.numpy(), other.numpy(), strict=True))


@given(st.integers(1, 500), st.integers(1, 5), st.none() | st.integers(1, 100))
def test_the_number_of_steps_is_the_number_of_batches(examples: int, epochs: int, batch_size: int | None):
    expected = epochs * len(torch.arange(examples).split(batch_size or examples))
    assert Training(epochs=epochs, batch_size=batch_size).steps(examples) == expected


def test_the_mean_gradient_and_the_correction_add_up_to_the_change_of_the_weights(sample: Dataset):
    """Plain SGD: w_end - w_start = -lr * steps * (mean gradient + constant), if nothing is proximal."""
    network, constant = Linear(), torch.linspace(-0.01, 0.01, 7850, dtype=torch.float64)
    start = np.concatenate([p.ravel() for p in network.numpy()])
    settings = Training(epochs=2, batch_size=100, optimizer="sgd", lr=0.01)
    gradient, images, labels = MeanGradient(), sample.train.images[:250], sample.train.labels[:250]
    list(train(network, images, labels, MNIST, settings, generator(9, "b"), PLAIN, Correction(constant), gradient))
    change = np.concatenate([p.ravel() for p in network.numpy()]) - start
    np.testing.assert_allclose(change, -0.01 * 6 * (gradient.flat() + constant), atol=1e-12)


def test_a_correction_goes_to_the_parameter_it_belongs_to(sample: Dataset):
    """It does so also where a convolution's weights lie in another order in memory than in the vector."""
    architecture = ReferenceCNN().on(MNIST)
    start = initial_parameters(architecture, 0)
    vector = torch.linspace(-1, 1, 28_938)
    settings = Training(epochs=1, batch_size=None, optimizer="sgd", lr=0.1)
    ends = []
    for correction in (None, Correction(vector)):
        network, images = network_with(architecture, start), sample.train.images[:20]
        list(train(network, images, sample.train.labels[:20], MNIST, settings, generator(0, "b"), PLAIN, correction))
        ends.append(flat(parameters_of(network).values()))
    torch.testing.assert_close(ends[1] - ends[0], -0.1 * vector, rtol=0, atol=1e-6)


def at_perturbed_weights(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, arithmetic: Arithmetic
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss, and the gradient at w + 0.1 g / ‖g‖, as sharpness-aware minimisation has it."""
    loss, gradients = loss_and_gradients(network, images, labels, arithmetic)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    with torch.no_grad():
        for weight, g in zip(network.parameters(), gradients, strict=True):
            weight.add_(0.1 * g / norm)
    _, perturbed = loss_and_gradients(network, images, labels, arithmetic)
    with torch.no_grad():
        for weight, g in zip(network.parameters(), gradients, strict=True):
            weight.sub_(0.1 * g / norm)
    return loss, perturbed


def test_an_objective_of_ones_own_takes_the_place_of_cross_entropy(sample: Dataset):
    """Foret et al. 2021, arXiv:2010.01412, algorithm 1, with plain SGD; written out in NumPy on the other side."""
    images, labels = sample.train.images[:250], sample.train.labels[:250]
    network = Linear()
    parameters = network.numpy()
    settings = Training(epochs=2, batch_size=100, optimizer="sgd", lr=0.05)
    list(train(network, images, labels, MNIST, settings, generator(9, "batches"), gradients=at_perturbed_weights))

    x, y = normalised(images, MNIST).flatten(1).double().numpy(), labels.numpy()
    rng = generator(9, "batches")
    for _ in range(2):
        order = rng.permutation(250)
        for batch in (order[:100], order[100:200], order[200:]):
            dw, db, _ = gradient(parameters[0], parameters[1], x[batch], y[batch])
            scale = 0.1 / np.sqrt((dw**2).sum() + (db**2).sum())
            dw, db, _ = gradient(parameters[0] + scale * dw, parameters[1] + scale * db, x[batch], y[batch])
            parameters = [parameters[0] - 0.05 * dw, parameters[1] - 0.05 * db]
    np.testing.assert_allclose(network.layer.weight.detach(), parameters[0], atol=1e-9)
    np.testing.assert_allclose(network.layer.bias.detach(), parameters[1], atol=1e-9)


@pytest.mark.parametrize("case", ["plain", "corrected", "observed", "clipped", "own objective"])
def test_a_network_that_takes_its_own_sgd_step_trains_as_one_that_does_not(sample: Dataset, case: str):
    """Its step is taken only where it is the whole truth: no correction, observation, clipping or other objective."""
    architecture = TwoNN().on(MNIST)
    start = initial_parameters(architecture, 0)
    images, labels = sample.train.images[:60], sample.train.labels[:60]
    settings = Training(epochs=2, batch_size=20, optimizer="sgd", lr=0.1, clip_norm=0.2 if case == "clipped" else None)
    options: dict[str, Any] = {
        "corrected": {"correction": Correction(torch.linspace(-0.01, 0.01, 199_210), proximal=0.01)},
        "own objective": {"gradients": at_perturbed_weights},
    }.get(case, {})
    results = []
    for plain in (False, True):
        network = network_with(architecture, start)
        assert isinstance(network, WithOwnSGDStep)
        observed = MeanGradient() if case == "observed" else None
        trained: nn.Module = Wrapped(network) if plain else network
        losses = list(
            train(trained, images, labels, MNIST, settings, generator(0, "b"), mean_gradient=observed, **options)
        )
        results.append((flat(parameters_of(network).values()), losses, observed and observed.flat()))
    (one, losses, mean), (other, expected_losses, expected_mean) = results
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    if mean is not None:
        torch.testing.assert_close(mean, expected_mean, rtol=1e-5, atol=1e-6)


class Wrapped(nn.Module):
    """A network without a gradient or a step of its own: its gradients are autograd's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)
