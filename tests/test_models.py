"""The networks are the published ones, however they compute."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedpipe.models import MODELS
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import (
    Parameters,
    initial_parameters,
    network_with,
    parameters_of,
    scratch_network_with,
    skeleton,
    trained_names,
)
from fedpipe.training.arithmetic import PLAIN
from fedpipe.training.images import normalised
from fedpipe.training.loop import WithOwnSGDStep, loss_and_gradients
from tests.federations import MNIST

every = pytest.mark.parametrize("name", MODELS)
images = torch.randint(0, 256, (7, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def for_ten_classes(name: str) -> Architecture:
    return MODELS[name]().on(MNIST)


@every
def test_a_model_maps_images_to_ten_logits(name: str):
    architecture = for_ten_classes(name)
    assert network_with(architecture, initial_parameters(architecture, 0))(normalised(images, MNIST)).shape == (7, 10)


@every
def test_a_model_tells_as_many_classes_apart_as_the_data_set_has(name: str):
    architecture = MODELS[name]().on(replace(MNIST, classes=47))
    assert architecture != for_ten_classes(name)
    network = network_with(architecture, initial_parameters(architecture, 0))
    assert network(normalised(images, MNIST)).shape == (7, 47)
    labels = torch.tensor([0, 46, 3, 20, 46, 11, 9])
    loss, _ = loss_and_gradients(network, normalised(images, MNIST), labels, PLAIN)
    torch.testing.assert_close(loss, F.cross_entropy(network(normalised(images, MNIST)), labels).detach())


@every
def test_initial_parameters_follow_from_the_seed_alone(name: str):
    architecture = for_ten_classes(name)
    torch.manual_seed(1)
    one = initial_parameters(architecture, 5)
    before = torch.random.get_rng_state()
    other = initial_parameters(architecture, 5)
    assert torch.equal(before, torch.random.get_rng_state())  # and they leave torch's global generator as it was
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], value) for key, value in initial_parameters(architecture, 6).items())


@every
def test_a_network_gives_back_the_parameters_it_was_given_and_shares_none(name: str):
    architecture = for_ten_classes(name)
    parameters = initial_parameters(architecture, 0)
    expected = {key: tensor.clone() for key, tensor in parameters.items()}
    network = network_with(architecture, parameters)
    given_back = parameters_of(network)
    for tensor in network.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(expected[key], tensor) for key, tensor in parameters.items())
    assert all(torch.equal(expected[key], tensor) and tensor.is_contiguous() for key, tensor in given_back.items())


@every
def test_gradients_are_those_of_autograd(name: str):
    """This tests a network that writes its backpropagation out; the others' gradients are autograd's anyway."""
    network = network_with(for_ten_classes(name), initial_parameters(for_ten_classes(name), 1))
    labels = torch.arange(7)
    loss, gradients = loss_and_gradients(network, normalised(images, MNIST), labels, PLAIN)
    expected_loss = F.cross_entropy(network(normalised(images, MNIST)), labels)
    expected = torch.autograd.grad(expected_loss, list(network.parameters()))
    torch.testing.assert_close(loss, expected_loss.detach())
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if isinstance(for_ten_classes(name).build(), WithOwnSGDStep)])
def test_a_networks_own_sgd_step_is_a_step_along_autograds_gradient(name: str):
    network = network_with(for_ten_classes(name), initial_parameters(for_ten_classes(name), 1))
    assert isinstance(network, WithOwnSGDStep)
    labels = torch.arange(7)
    expected_loss = F.cross_entropy(network(normalised(images, MNIST)), labels)
    gradients = torch.autograd.grad(expected_loss, list(network.parameters()))
    expected = [weight.detach() - 0.1 * g for weight, g in zip(network.parameters(), gradients, strict=True)]
    with torch.no_grad():
        loss = network.sgd_step(normalised(images, MNIST), labels, lr=0.1)
    torch.testing.assert_close(loss, expected_loss.detach())
    for found, weight in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), weight, rtol=1e-5, atol=1e-6)


@every
def test_a_scratch_network_is_like_a_new_one_whatever_it_held_before(name: str):
    architecture = for_ten_classes(name)
    for seed in (1, 2, 1):
        scratch = scratch_network_with(architecture, initial_parameters(architecture, seed)).eval()
        new = network_with(architecture, initial_parameters(architecture, seed)).eval()
        assert torch.equal(scratch(normalised(images, MNIST)), new(normalised(images, MNIST)))


@every
def test_a_skeleton_has_the_networks_names_and_no_values(name: str):
    network = skeleton(for_ten_classes(name))
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert list(network.state_dict()) == list(initial_parameters(for_ten_classes(name), 0))
    assert trained_names(network) == [key for key, _ in for_ten_classes(name).build().named_parameters()]


def convolved(hidden: torch.Tensor, parameters: Parameters, batch_norm: bool = False) -> torch.Tensor:
    """conv, batch normalisation if asked, ReLU, pool, twice, in that order and row-major, as papers have it; flat."""
    for layer in ("1", "2"):
        weight, bias = parameters[f"conv{layer}.weight"], parameters[f"conv{layer}.bias"]
        hidden = F.conv2d(hidden, weight, bias, padding=2)
        if batch_norm:
            # Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1, with the mean and variance of the batch
            mean, variance = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), correction=0, keepdim=True)
            scale, shift = (parameters[f"norm{layer}.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
            hidden = scale * (hidden - mean) / (variance + 1e-5).sqrt() + shift
        hidden = F.max_pool2d(F.relu(hidden), 2)
    return hidden.flatten(1)


def dense(hidden: torch.Tensor, parameters: Parameters, layer: str) -> torch.Tensor:
    return F.linear(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])


def group_normalised(hidden: torch.Tensor, parameters: Parameters, layer: str) -> torch.Tensor:
    """Wu & He 2018, arXiv:1803.08494, equations 2 to 7, with 8 groups."""
    n, channels, height, width = hidden.shape
    groups = hidden.reshape(n, 8, -1)
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    scale, shift = (parameters[f"{layer}.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
    return scale * ((groups - mean) / (variance + 1e-5).sqrt()).reshape(n, channels, height, width) + shift


def residual(hidden: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """He et al. 2016, arXiv:1512.03385, section 4.2, n = 1: y = F(x) + x, zeros where x has fewer channels than y."""

    def convolved(x: torch.Tensor, layer: str, stride: int = 1) -> torch.Tensor:
        number = layer.rpartition("conv")[2]
        convolved = F.conv2d(x, parameters[f"{layer}.weight"], padding=1, stride=stride)
        return group_normalised(convolved, parameters, layer.replace(f"conv{number}", f"norm{number}"))

    hidden = F.relu(convolved(hidden, "conv"))
    for block, stride in enumerate((1, 2, 2)):
        inner = F.relu(convolved(hidden, f"blocks.{block}.conv1", stride))
        inner = convolved(inner, f"blocks.{block}.conv2")
        shortcut = torch.zeros_like(inner)
        shortcut[:, : hidden.shape[1]] = hidden[:, :, ::stride, ::stride]
        hidden = F.relu(inner + shortcut)
    return hidden.mean(dim=(2, 3))


DESCRIBED = {
    "reference-cnn": lambda x, p: dense(convolved(x, p), p, "linear"),
    "reference-bn-cnn": lambda x, p: dense(convolved(x, p, batch_norm=True), p, "linear"),
    "paper-cnn": lambda x, p: dense(F.relu(dense(convolved(x, p), p, "hidden")), p, "output"),
    "logistic": lambda x, p: dense(x.flatten(1), p, "1"),
    "resnet": lambda x, p: dense(residual(x, p), p, "output"),
    "2nn": lambda x, p: dense(F.relu(dense(F.relu(dense(x.flatten(1), p, "hidden1")), p, "hidden2")), p, "output"),
}


@every
def test_a_model_computes_what_its_paper_describes(name: str):
    parameters = initial_parameters(for_ten_classes(name), 3)
    x = ((images.double() / 255 - 0.1307) / 0.3081).float().permute(0, 3, 1, 2)
    found = network_with(for_ten_classes(name), parameters)(normalised(images, MNIST))
    torch.testing.assert_close(found, DESCRIBED[name](x, parameters), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "size", "buffers"), [
    ("reference-cnn", 28_938, 0), ("reference-bn-cnn", 29_034, 98), ("paper-cnn", 1_663_370, 0),
    ("2nn", 199_210, 0), ("logistic", 7_850, 0), ("resnet", 75_002, 0),
])  # fmt: skip
def test_a_model_has_as_many_parameters_as_published(name: str, size: int, buffers: int):
    """A network with batch normalisation has buffers too: two float32 statistics a channel, an int64 count a layer."""
    parameters = initial_parameters(for_ten_classes(name), 0)
    trained = trained_names(skeleton(for_ten_classes(name)))
    assert sum(parameters[key].numel() for key in trained) == size
    assert sum(tensor.numel() for tensor in parameters.values()) == size + buffers
    counts = sum(key.endswith("num_batches_tracked") for key in parameters)
    assert sum(tensor.nbytes for tensor in parameters.values()) == 4 * (size + buffers) + 4 * counts
