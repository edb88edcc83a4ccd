"""What the README tells a newcomer to write works."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from fedpipe.datasets import Dataset
from fedpipe.models import initial_parameters, network_with
from fedpipe.models.base import normalised
from fedpipe.params import Section, choice
from fedpipe.partition import PARTITIONERS
from fedpipe.randomness import generator
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def defined_in_readme(name: str) -> type:
    """The class of that name from the README's Python."""
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"class {name}(" in code]
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(code, scope)
    return scope[name]


def test_the_partitioner_divides_and_its_block_holds_its_parameter(sample: Dataset):
    @choice("scheme", PARTITIONERS | {"power_law": defined_in_readme("PowerLaw")})
    class Partition(Section):
        scheme: str = "iid"

    settings = Partition.model_validate_json('{"scheme": "power_law", "power_law": {"exponent": 2}}')
    shards = settings.chosen("scheme").assign(sample.train.labels.numpy(), 8, generator(0, "partition"))
    assert sorted(np.concatenate(shards).tolist()) == list(range(4000))
    np.testing.assert_allclose([len(shard) for shard in shards], 4000 * np.arange(1, 9) ** 2 / 204, atol=1)


def test_the_model_maps_images_to_logits(sample: Dataset):
    model = defined_in_readme("Logistic")()
    parameters = initial_parameters(model, 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == 7_850
    logits = network_with(model, parameters)(normalised(sample.test.images))
    assert logits.shape == (1000, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("flag", ["epoch", "batch_size", "global_epoch", "local_epoch", "init_lr", "num_clients",
                                  "num_select_clients", "data_dir"])  # fmt: skip
def test_each_of_the_references_flags_has_its_parameter(flag: str):
    assert re.search(rf"^\| `--{flag}` \|.*\| .*`[\w.]+`.* \|$", README, re.MULTILINE)


def test_files_that_the_readme_shows_are_there():
    for path in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
