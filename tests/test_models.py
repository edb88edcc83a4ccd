"""The networks are the published ones, however they compute."""

import pytest
import torch
import torch.nn.functional as F

from fedpipe.arithmetic import PLAIN
from fedpipe.models import (
    MODELS,
    Parameters,
    bytes_of,
    initial_parameters,
    network_with,
    parameters_of,
    scratch_network_with,
)
from fedpipe.models.base import normalised
from fedpipe.training import loss_and_gradients

every = pytest.mark.parametrize("name", MODELS)
images = torch.randint(0, 256, (7, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@every
def test_a_model_maps_images_to_ten_logits(name: str):
    model = MODELS[name]()
    assert network_with(model, initial_parameters(model, 0))(normalised(images)).shape == (7, 10)


@every
def test_a_model_tells_as_many_classes_apart_as_the_data_set_has(name: str):
    model = MODELS[name]().for_classes(47)
    assert model != MODELS[name]()
    network = network_with(model, initial_parameters(model, 0))
    assert network(normalised(images)).shape == (7, 47)
    labels = torch.tensor([0, 46, 3, 20, 46, 11, 9])
    loss, _ = loss_and_gradients(network, normalised(images), labels, PLAIN)
    torch.testing.assert_close(loss, F.cross_entropy(network(normalised(images)), labels).detach())


@every
def test_initial_parameters_follow_from_the_seed_alone(name: str):
    model = MODELS[name]()
    torch.manual_seed(1)
    one = initial_parameters(model, 5)
    before = torch.random.get_rng_state()
    other = initial_parameters(model, 5)
    assert torch.equal(before, torch.random.get_rng_state())  # and they disturb nobody else's chance
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], value) for key, value in initial_parameters(model, 6).items())


@every
def test_a_network_gives_back_the_parameters_it_was_given_and_shares_none(name: str):
    model = MODELS[name]()
    parameters = initial_parameters(model, 0)
    kept = {key: tensor.clone() for key, tensor in parameters.items()}
    network = network_with(model, parameters)
    given_back = parameters_of(network)
    for tensor in network.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(kept[key], tensor) for key, tensor in parameters.items())
    assert all(torch.equal(kept[key], tensor) and tensor.is_contiguous() for key, tensor in given_back.items())


@every
def test_gradients_are_those_of_autograd(name: str):
    """For a network that writes its backpropagation out; the others' are autograd's anyway."""
    network = network_with(MODELS[name](), initial_parameters(MODELS[name](), 1))
    labels = torch.arange(7)
    loss, gradients = loss_and_gradients(network, normalised(images), labels, PLAIN)
    expected_loss = F.cross_entropy(network(normalised(images)), labels)
    expected = torch.autograd.grad(expected_loss, list(network.parameters()))
    torch.testing.assert_close(loss, expected_loss.detach())
    for found, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


@every
def test_a_scratch_network_is_one_of_its_own(name: str):
    model = MODELS[name]()
    for seed in (1, 2, 1):
        scratch = scratch_network_with(model, initial_parameters(model, seed)).eval()
        own = network_with(model, initial_parameters(model, seed)).eval()
        assert torch.equal(scratch(normalised(images)), own(normalised(images)))


def convolved(hidden: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """conv, ReLU, pool, twice, in that order and row-major, as the papers describe; flattened."""
    for layer in ("conv1", "conv2"):
        hidden = F.conv2d(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"], padding=2)
        hidden = F.max_pool2d(F.relu(hidden), 2)
    return hidden.flatten(1)


def dense(hidden: torch.Tensor, parameters: Parameters, layer: str) -> torch.Tensor:
    return F.linear(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"])


DESCRIBED = {
    "reference-cnn": lambda x, p: dense(convolved(x, p), p, "linear"),
    "paper-cnn": lambda x, p: dense(F.relu(dense(convolved(x, p), p, "hidden")), p, "output"),
    "logistic": lambda x, p: dense(x.flatten(1), p, "1"),
    "2nn": lambda x, p: dense(F.relu(dense(F.relu(dense(x.flatten(1), p, "hidden1")), p, "hidden2")), p, "output"),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_model_computes_what_its_paper_describes(name: str):
    parameters = initial_parameters(MODELS[name](), 3)
    x = ((images.double() / 255 - 0.1307) / 0.3081).float().unsqueeze(1)
    found = network_with(MODELS[name](), parameters)(normalised(images))
    torch.testing.assert_close(found, DESCRIBED[name](x, parameters), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [
    ("reference-cnn", 28_938), ("paper-cnn", 1_663_370), ("2nn", 199_210), ("logistic", 7_850)
])  # fmt: skip
def test_a_model_has_as_many_parameters_as_published(name: str, size: int):
    parameters = initial_parameters(MODELS[name](), 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == size
    assert bytes_of(parameters) == 4 * size
