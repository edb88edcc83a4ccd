"""What the README tells a newcomer to write works."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from fedpipe.config.section import Section, with_blocks
from fedpipe.data.datasets import Dataset
from fedpipe.data.partition import JOINED, PARTITIONERS
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.context import ClientContext, LocalResult, LocalTraining
from fedpipe.federated.messages import ClientReport, Update
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.models.parameters import initial_parameters, network_with
from fedpipe.system.randomness import generator
from fedpipe.training.images import normalised
from tests.conftest import ROOT
from tests.federations import MNIST

README = (ROOT / "README.md").read_text()


def defined_in_readme(name: str) -> type:
    """Return the class of that name from the README's Python."""
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
    parts = settings.clusters.assign(labels, weights, generator(0, "partition"))
    assert sorted(np.concatenate(parts).tolist()) == list(range(4000))
    for client, part in enumerate(parts):
        assert set(labels[part]) == {client % 5, client % 5 + 5}
        assert len(part) == 200


def plain_updates(deltas: torch.Tensor) -> list[tuple[Update, ClientContext]]:
    """Return the updates of clients of equal size as training makes them, each with its client's context."""
    updates = []
    for client, delta in enumerate(deltas):
        report = ClientReport(1, client, 10, 1, 0.0, None, None, 0, None, None)
        context = ClientContext(
            round=1, client=client, data_fraction=1 / len(deltas), training=LocalTraining(),
            start=torch.zeros_like(delta), received={}, start_loss=lambda: 0.0, seed=0,
        )  # fmt: skip
        updates.append((Update(client, 1 / len(deltas), report, delta), context))
    return updates


def sent_by(strategy: Any, deltas: torch.Tensor) -> list[Update]:
    """Return what clients of these updates and of equal size send."""
    return [
        strategy.on_client(update, context, LocalResult(update.delta, steps=1, mean_gradient=None))
        for update, context in plain_updates(deltas)
    ]


def test_the_strategy_is_its_papers():
    """FedExP's step goes in the same direction as FedAvg's and is η times as long."""
    FedExP = defined_in_readme("FedExP")
    deltas = torch.tensor([[1.0, 2.0], [-1.0, 2.5]])
    updates = sent_by(FedExP(), deltas)
    assert [dict(update.scalars) for update in updates] == [{"square": pytest.approx(x)} for x in (5.0, 7.25)]
    mean = Mean()
    aggregate = mean.result(mean.add(mean.add(mean.empty(), updates[0]), updates[1]))
    start = torch.zeros(2, dtype=torch.float64)
    w, remembered = FedExP(eps=0.1).server_update(start, aggregate, {})
    assert remembered == {}
    torch.testing.assert_close(w, max(1, 6.125 / (2 * (2.25**2 + 0.1))) * deltas.double().mean(0))
    [alone] = sent_by(FedExP(), deltas[:1])
    agreeing = mean.result(mean.add(mean.empty(), alone))
    torch.testing.assert_close(FedExP().server_update(start, agreeing, {})[0], deltas[0].double())


def test_the_transform_halves_the_message_and_rounds_to_float16():
    half = defined_in_readme("Half")()
    deltas = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    mean, total = Mean(), Mean().empty()
    for update, context in plain_updates(deltas):
        sent = Update.decode(half.on_client(update, context).encode())
        assert len(sent.encode()) < len(update.encode()) - 2 * 5000 + 10
        np.testing.assert_allclose(sent.delta.double(), update.delta.double(), rtol=2.0**-11, atol=2.0**-24)
        total = mean.add(total, sent)
    torch.testing.assert_close(mean.result(total).delta, deltas.half().double().mean(0))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Clusters", "fedpipe/data/partition"),
        ("FedExP", "fedpipe/federated/strategies"),
        ("Half", "fedpipe/federated/transforms"),
    ],
)
def test_the_readme_counts_the_lines_of_its_examples(name: str, folder: str):
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"class {name}(" in code]
    assert (ROOT / folder).is_dir()
    file = re.search(rf"`{folder}/{name.lower()}\.py`.*?1\s+new\s+file\s+of\s+(\d+)\s+lines", README, re.DOTALL)
    assert file
    assert int(file[1]) == len(code.splitlines())


def test_the_model_maps_images_to_logits(sample: Dataset):
    architecture = defined_in_readme("Perceptron")(hidden=20).on(MNIST)
    parameters = initial_parameters(architecture, 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == 784 * 20 + 20 + 20 * 10 + 10
    logits = network_with(architecture, parameters)(normalised(sample.test.images, MNIST))
    assert logits.shape == (1000, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_stands_in_its_table(name: str):
    assert re.search(rf"^\| \[.*`{name}`.*\]\(https://arxiv\.org/abs/[\d.]+\) \|", README, re.MULTILINE)


@pytest.mark.parametrize("scheme", [*PARTITIONERS, *JOINED])
def test_each_scheme_stands_in_its_table(scheme: str):
    assert re.search(rf"^\| `{scheme}` \|", README, re.MULTILINE)


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [code] = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "fedpipe.run(" in code]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert len(scope["result"].rounds) == 3
    assert scope["result"].accuracy > 0.9


def test_every_command_sets_parameters_that_there_are():
    """Those of the examples come with them."""
    parameters = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    parameters["partition"]["clusters"] = {"groups": 2}
    keys = re.findall(r"-S ([\w.-]+)=", README)
    assert len(keys) > 25
    for key in keys:
        block = parameters
        for name in key.split("."):
            assert name in block, key
            block = block[name]


@pytest.mark.parametrize("flag", ["epoch", "batch_size", "global_epoch", "local_epoch", "init_lr", "num_clients",
                                  "num_select_clients", "data_dir"])  # fmt: skip
def test_each_of_the_references_flags_has_its_parameter(flag: str):
    assert re.search(rf"^\| `--{flag}` \|.*\| .*`[\w.]+`.* \|$", README, re.MULTILINE)


def test_files_that_the_readme_shows_are_there():
    for path in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
