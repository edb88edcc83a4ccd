"""What the README tells a newcomer to write works."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from fedpipe.datasets import Dataset
from fedpipe.models import initial_parameters, network_with
from fedpipe.models.base import normalised
from fedpipe.params import Section, with_blocks
from fedpipe.partition import JOINED, PARTITIONERS
from fedpipe.randomness import generator
from fedpipe.strategies import STRATEGIES, Aggregate, Trained
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def defined_in_readme(name: str) -> type:
    """The class of that name from the README's Python."""
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"class {name}(" in code]
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(code, scope)
    return scope[name]


def test_the_partitioner_divides_and_its_block_holds_its_parameter(sample: Dataset):
    @with_blocks({"clusters": defined_in_readme("Clusters")})
    class Partition(Section):
        scheme: str = "clusters"

    settings: Any = Partition.model_validate_json('{"clusters": {"groups": 5}}')
    labels, weights = sample.train.labels.numpy(), np.full(20, 1 / 20)
    shards = settings.clusters.assign(labels, weights, generator(0, "partition"))
    assert sorted(np.concatenate(shards).tolist()) == list(range(4000))
    for client, shard in enumerate(shards):
        assert set(labels[shard]) == {client % 5, client % 5 + 5}
        assert len(shard) == 200


def test_the_strategy_is_its_papers():
    """FedExP's step beside FedAvg's: in the same direction, η times as long."""
    FedExP = defined_in_readme("FedExP")
    deltas = torch.tensor([[1.0, 2.0], [-1.0, 2.5]], dtype=torch.float64)
    uploads = [FedExP().upload(None, Trained(delta, 1, None, None)) for delta in deltas]
    squares = [upload.scalars["square"] for upload in uploads]
    assert squares == pytest.approx([5.0, 7.25])
    mean = Aggregate(deltas.mean(0), {}, {"square": float(np.mean(squares))})
    w, slots = FedExP(eps=0.1).update(torch.zeros(2), mean, {})
    assert slots == {}
    torch.testing.assert_close(w, max(1, 6.125 / (2 * (2.25**2 + 0.1))) * deltas.mean(0))
    agreeing = Aggregate(deltas[0], {}, {"square": 5.0})
    torch.testing.assert_close(FedExP().update(torch.zeros(2), agreeing, {})[0], deltas[0])


@pytest.mark.parametrize(("name", "kind"), [("Clusters", "partition"), ("FedExP", "strategies")])
def test_the_readme_counts_the_lines_of_its_examples(name: str, kind: str):
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"class {name}(" in code]
    file = re.search(rf"`fedpipe/{kind}/{name.lower()}\.py`.*?1\s+new\s+file\s+of\s+(\d+)\s+lines", README, re.DOTALL)
    assert file
    assert int(file[1]) == len(code.splitlines())


def test_the_model_maps_images_to_logits(sample: Dataset):
    model = defined_in_readme("Perceptron")(hidden=20)
    parameters = initial_parameters(model, 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == 784 * 20 + 20 + 20 * 10 + 10
    logits = network_with(model, parameters)(normalised(sample.test.images))
    assert logits.shape == (1000, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_stands_in_its_table(name: str):
    assert re.search(rf"^\| \[.*`{name}`.*\]\(https://arxiv\.org/abs/[\d.]+\) \|", README, re.MULTILINE)


@pytest.mark.parametrize("scheme", [*PARTITIONERS, *JOINED])
def test_each_scheme_stands_in_its_table(scheme: str):
    assert re.search(rf"^\| `{scheme}` \|", README, re.MULTILINE)


@pytest.mark.parametrize("flag", ["epoch", "batch_size", "global_epoch", "local_epoch", "init_lr", "num_clients",
                                  "num_select_clients", "data_dir"])  # fmt: skip
def test_each_of_the_references_flags_has_its_parameter(flag: str):
    assert re.search(rf"^\| `--{flag}` \|.*\| .*`[\w.]+`.* \|$", README, re.MULTILINE)


def test_files_that_the_readme_shows_are_there():
    for path in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
