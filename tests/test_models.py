"""The networks are the published ones, however they compute."""

import pytest
import torch
import torch.nn.functional as F

from fedpipe.models import MODELS, bytes_of, initial_parameters, network_with, parameters_of
from fedpipe.models.base import normalised
from fedpipe.models.reference_cnn import ReferenceCNN

every = pytest.mark.parametrize("name", MODELS)
images = torch.randint(0, 256, (7, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@every
def test_a_model_maps_images_to_ten_logits(name: str):
    model = MODELS[name]()
    assert network_with(model, initial_parameters(model, 0))(normalised(images)).shape == (7, 10)


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


def test_the_reference_cnn_computes_what_the_reference_describes():
    """conv 5x5 1→16, ReLU, pool, conv 5x5 16→32, ReLU, pool, linear 1568→10, in that order and row-major."""
    parameters = initial_parameters(ReferenceCNN(), 3)
    hidden = ((images.double() / 255 - 0.1307) / 0.3081).float().unsqueeze(1)
    for layer in ("conv1", "conv2"):
        hidden = F.conv2d(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"], padding=2)
        hidden = F.max_pool2d(F.relu(hidden), 2)
    expected = F.linear(hidden.flatten(1), parameters["linear.weight"], parameters["linear.bias"])
    found = network_with(ReferenceCNN(), parameters)(normalised(images))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_reference_cnn_has_28_938_parameters():
    parameters = initial_parameters(ReferenceCNN(), 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == 28_938
    assert bytes_of(parameters) == 4 * 28_938
