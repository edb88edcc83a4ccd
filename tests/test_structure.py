"""The house: what dvc.yaml says the stages need is what they need."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fedpipe", "stages", cache_dir=None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_imports(stage: str, graph: grimp.ImportGraph):
    """A folder among the deps stands for all its files, and at least one must be imported."""
    imported = {file_of(f"stages.{stage}")} | {file_of(m) for m in graph.find_upstream_modules(f"stages.{stage}")}
    code = {Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith(("fedpipe", "stages"))}
    covered = {path for path in imported if path in code or any(folder in code for folder in path.parents)}
    assert imported - covered == set(), "imported, but not among the stage's deps"
    idle = {dep for dep in code if not any(dep == path or dep in path.parents for path in imported)}
    assert idle == set(), "among the stage's deps, but not imported"


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_of_a_stage_is_its_module(stage: str):
    """As a module, not a path: in an experiment's copy of the project the copy's code must be imported."""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_every_stage_waits_for_the_check_of_the_parameters(stage: str):
    """So that a mistake in params.yaml costs no output: DVC removes a stage's outputs before it runs the stage."""
    deps = STAGES[stage]["deps"]
    produced = {next(iter(out)) if isinstance(out, dict) else out for s in STAGES.values() for out in s["outs"]}
    assert "data/params-checked" in deps or any(dep.startswith("reports/") for dep in deps)
    assert "data/params-checked" in produced


@pytest.mark.parametrize("stage", ["download", "partition", "federated", "baseline"])
def test_a_stage_starts_without_what_training_does_not_need(stage: str):
    """They start in about the time of importing torch."""
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    slow = {"dvc", "pandas", "matplotlib", "torchvision", "sklearn", "ray", "vl_convert", "sympy"}
    assert slow & set(shown.stdout.split()) == set()


@pytest.mark.parametrize("package", ["fedpipe", "stages"])
def test_importing_the_package_imports_nothing_else(package: str):
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_of_compute_only_device_and_precision_are_stages_parameters():
    """The rest decides how fast a stage is, never what it makes; only the check reads the whole file."""
    expected = {
        "federated": {"compute.device", "compute.precision"},
        "baseline": {"compute.device", "compute.precision"},
    }
    for name, stage in STAGES.items():
        found = {str(param) for param in stage["params"] if str(param).startswith("compute")}
        assert found == expected.get(name, set())
