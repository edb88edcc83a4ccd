"""Names from outside the package: my_module:MyStrategy works wherever a name of a table does."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import fedpipe
from fedpipe.config.file import read
from fedpipe.pipeline import Pipeline, check, inputs
from fedpipe.system.errors import UserError
from tests.conftest import ROOT

CODE = """
from helpers import HALF
from pydantic import Field
from torch import nn

import fedpipe
from fedpipe.data.partition.iid import IID
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.strategies.fedavg import FedAvg


class Damped(FedAvg):
    lr: float = Field(default=1.0, gt=0)

    def server_update(self, weights, aggregate, state):
        return weights + self.lr * aggregate.delta, {}


class Same(fedpipe.Transform):
    pass


class Average(Mean):
    pass


class Shuffled(IID):
    pass


class Line(fedpipe.Model):
    def build(self, spec):
        return nn.Sequential(nn.Flatten(), nn.Linear(spec.values, spec.classes))
"""
numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module of a user's beside params.yaml, and return its name, which is another one in each test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = f"mine_{next(numbers)}"
    (tmp_path / "own").mkdir()
    (tmp_path / f"own/{name}.py").write_text(CODE)
    (tmp_path / "own/helpers.py").write_text("HALF = 0.5\n")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    yield name
    sys.modules.pop("helpers", None)


def set_params(changes: dict[str, Any]) -> None:
    yaml = YAML()
    document = yaml.load(Path("params.yaml"))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        block = document
        for key in path:
            block = block[key]
        block[last] = value
    yaml.dump(document, Path("params.yaml"))


def test_every_table_takes_a_class_of_the_users(module: str):
    set_params(
        {
            "federated.strategy": f"{module}:Damped",
            "federated.Damped": {"lr": 0.5},
            "federated.transforms": f"clip+{module}:Same",
            "federated.clip.norm": 3.0,
            "federated.aggregation": f"{module}:Average",
            "partition.scheme": f"{module}:Shuffled",
            "model.name": f"{module}:Line",
        }
    )
    pipeline = check()
    assert pipeline.federated.algorithm.model_dump() == {"lr": 0.5}
    assert [one.model_dump() for one in pipeline.federated.chain.transforms.values()] == [{"norm": 3.0}, {}]
    for made in (pipeline.federated.aggregator, pipeline.partition.partitioner, pipeline.model.model):
        assert type(made).__module__ == module


def test_its_file_and_those_it_imports_count_where_it_is_used_and_nowhere_else(module: str):
    set_params({"federated.strategy": f"{module}:Damped"})
    before = inputs(check())
    own = {stage: [file for file in given["code"] if file.startswith("own/")] for stage, given in before.items()}
    assert own.pop("federated") == ["own/helpers.py", f"own/{module}.py"]
    assert not any(own.values())
    assert before["federated"]["parameters"]["federated"]["strategy"]["lr"] == 1.0


def test_its_block_may_stay_when_another_is_chosen(module: str):
    set_params({"federated.Damped": {"lr": 0.5}})
    assert inputs(check()) == inputs(Pipeline())


MISTAKES = [
    ({"federated.strategy": "MODULE:Damped", "federated.Damped": {"lr": -1.0}}, "federated.Damped.lr: -1.0 must be"),
    ({"federated.strategy": "MODULE:Damped", "federated.Damped": {"rate": 1}}, "federated.Damped.rate: unknown key; "),
    ({"federated.strategy": "MODULE:Damped", "federated.Dampt": {"lr": 1.0}}, "federated.Dampt: a block of no class"),
    ({"federated.strategy": "MODULE:Dampt"}, "federated.strategy: MODULE:Dampt: MODULE has no class Dampt"),
    ({"federated.strategy": "MODULE:Same"}, "federated.strategy: MODULE:Same: MODULE has no class Same"),
    ({"federated.strategy": "nowhere:X"}, "federated.strategy: nowhere:X: there is no module nowhere"),
    ({"federated.strategy": "MODULE:"}, "federated.strategy: MODULE:: a module and a class are wanted"),
    ({"federated.transforms": "clp+MODULE:Same"}, "federated.transforms: clp: a module and a class are wanted"),
    ({"model.name": "MODULE:Damped"}, "model.name: MODULE:Damped: MODULE has no class Damped that is a Model"),
    ({"partition.scheme": "MODULE:Shuffled+quantity"}, "partition.scheme: quantity: a module and a class are wanted"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said[:50] for _, said in MISTAKES])
def test_a_mistake_is_a_line(module: str, changes: dict[str, Any], said: str):
    set_params(json.loads(json.dumps(changes).replace("MODULE", module)))
    with pytest.raises(UserError) as error:
        read(Pipeline)
    [line] = str(error.value).splitlines()
    assert line.startswith(f"params.yaml: {said.replace('MODULE', module)}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_a_line(module: str, code: str, said: str):
    Path(f"own/broken_{module}.py").write_text(code)
    set_params({"federated.strategy": f"broken_{module}:X"})
    with pytest.raises(UserError, match=r"^params\.yaml: federated\.strategy: [^\n]*$") as error:
        read(Pipeline)
    assert f"broken_{module} cannot be imported: {said}" in str(error.value)


@pytest.mark.parametrize("engine", ["threads", "processes", "ray"])
def test_from_python_too_wherever_clients_run(module: str, engine: str):
    settings: dict[str, Any] = {
        "model": f"{module}:Line", "rounds": 1, "local": {"epochs": 1}, "quiet": True,
        "compute": {"engine": engine, "workers": 2, "device": "cpu"},
    }  # fmt: skip
    whole = fedpipe.run(**settings)
    half = fedpipe.run(strategy=f"{module}:Damped", Damped={"lr": 0.5}, transforms=f"{module}:Same", **settings)
    assert half.loss > whole.loss
