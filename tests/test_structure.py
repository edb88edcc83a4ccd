"""What dvc.yaml says the stages need is what they import, and nobody imports what it does not need."""

import ast
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

import fedpipe
from tests.conftest import ROOT

STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def has_code(file: Path) -> bool:
    """Tell whether a file holds anything but a docstring."""
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.parse(file.read_text()).body
    )


CODE = {
    file.relative_to(ROOT)
    for package in ("fedpipe", "stages")
    for file in (ROOT / package).rglob("*.py")
    if has_code(file)
} - {Path("fedpipe/__init__.py")}  # which says what is exported, and imports it only for those who ask


def shortest(files: Collection[Path]) -> set[Path]:
    """Return the files in as few paths as possible: a folder stands for all the code in it."""

    def widest(file: Path) -> Path:
        whole = [folder for folder in file.parents[:-1] if {f for f in CODE if folder in f.parents} <= set(files)]
        return whole[-1] if whole else file

    return {widest(file) for file in files}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return what imports what, within functions and for type checkers too; a module imports its own packages."""
    graph = grimp.build_graph("fedpipe", "stages", cache_dir=None)
    for exported in graph.find_modules_directly_imported_by("fedpipe"):
        graph.remove_import(importer="fedpipe", imported=exported)
    for module in sorted(graph.modules):
        package = module.rpartition(".")[0]
        if package:
            graph.add_import(importer=module, imported=package)
    return graph


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_imports(stage: str, graph: grimp.ImportGraph):
    """In as few paths as possible. The check, which is quick and whose output never changes, depends on all of it."""
    modules = {f"stages.{stage}"} | graph.find_upstream_modules(f"stages.{stage}")
    imported = set(map(file_of, modules)) & CODE
    code = {Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith(("fedpipe", "stages"))}
    if stage == "check":
        own = {Path("stages/__init__.py"), Path("stages/check.py")}
        assert code == own | {Path("fedpipe")}
        assert {file for file in imported if file.parts[0] != "fedpipe"} == own
    else:
        assert code == shortest(imported)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_of_a_stage_is_its_module(stage: str):
    """It is run as a module, not as a path, so that an experiment's copy of the project imports the copy's code."""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_every_stage_waits_for_the_check_of_the_parameters(stage: str):
    """A mistake in params.yaml must cost no output: DVC removes a stage's outputs before it runs the stage."""
    deps = STAGES[stage]["deps"]
    produced = {next(iter(out)) if isinstance(out, dict) else out for s in STAGES.values() for out in s["outs"]}
    assert "data/params-checked" in deps or any(dep.startswith("reports/") for dep in deps)
    assert "data/params-checked" in produced


@pytest.mark.parametrize("stage", ["download", "partition", "federated", "baseline"])
def test_a_stage_starts_without_slow_modules_that_it_does_not_need(stage: str):
    """It starts in about the time of importing torch."""
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    slow = {"dvc", "pandas", "matplotlib", "torchvision", "sklearn", "ray", "vl_convert", "sympy"}
    assert slow & set(shown.stdout.split()) == set()


def test_importing_the_package_imports_nothing_of_it():
    code = "import sys, fedpipe; print(*(name for name in sys.modules if name.split('.')[0] in ('fedpipe', 'torch')))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["fedpipe"]


def test_whatever_the_package_exports_is_where_it_says():
    assert all(getattr(fedpipe, name).__name__ == name for name in fedpipe.__all__)
    assert set(fedpipe.__all__) <= set(dir(fedpipe))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fedpipe.nothing  # noqa: B018


def test_device_and_precision_are_the_only_stage_parameters_in_compute():
    """The others decide how fast a stage is, never what it makes. Only the check reads the whole file."""
    expected = {
        "federated": {"compute.device", "compute.precision"},
        "baseline": {"compute.device", "compute.precision"},
    }
    for name, stage in STAGES.items():
        found = {str(param) for param in stage["params"] if str(param).startswith("compute")}
        assert found == expected.get(name, set())
