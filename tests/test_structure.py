"""What dvc.yaml says the stages need is what they import, and nobody imports what it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

import fedpipe
from fedpipe.pipeline import TABLES, Pipeline, inputs
from tests.conftest import ROOT

STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def file_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def has_code(file: Path) -> bool:
    """Tell whether a file holds anything but a docstring."""
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.parse((ROOT / file).read_text()).body
    )


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return what imports what, within functions and for type checkers too; a module imports its own packages.

    What the package exports and the tables of names import nothing: they are asked for what they hold.
    """
    graph = grimp.build_graph("fedpipe", "stages", cache_dir=None)
    for module in ("fedpipe", *TABLES):
        for imported in graph.find_modules_directly_imported_by(module):
            graph.remove_import(importer=module, imported=imported)
    for module in sorted(graph.modules):
        package = module.rpartition(".")[0]
        if package:
            graph.add_import(importer=module, imported=package)
    return graph


@pytest.mark.parametrize(
    ("stage", "chosen"),
    [
        ("download", []),
        ("partition", ["data.partition.dirichlet", "data.partition.feature"]),
        ("federated", ["federated.strategies.scaffold", "federated.aggregation.mean", "federated.transforms.clip",
                       "models.two_nn"]),
        ("baseline", ["models.two_nn"]),
        ("local", ["models.two_nn"]),
        ("compare", []),
        ("report", []),
    ],
)  # fmt: skip
def test_a_stage_depends_on_exactly_the_code_it_imports_and_the_chosen_entries_of_tables(
    stage: str, chosen: list[str], graph: grimp.ImportGraph
):
    pipeline = Pipeline.model_validate(
        {
            "partition": {"scheme": "dirichlet+feature"},
            "model": {"name": "2nn"},
            "federated": {"strategy": "scaffold", "transforms": "clip"},
        }
    )
    roots = [f"stages.{stage}", *(f"fedpipe.{module}" for module in chosen)]
    modules = {module for root in roots for module in {root} | graph.find_upstream_modules(root)}
    expected = {file for file in map(file_of, modules - {"fedpipe", *TABLES}) if has_code(file)}
    assert set(map(Path, inputs(pipeline)[stage]["code"])) == expected


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_names_holds_nothing_else(table: str):
    """For no result depends on it: a docstring, imports, and dictionaries of names."""
    docstring, *rest = ast.parse((ROOT / file_of(table)).read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        assert isinstance(node, ast.ImportFrom) or (
            isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
        )


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_of_a_stage_is_its_module(stage: str):
    """It is run as a module, not as a path, so that an experiment's copy of the project imports the copy's code."""
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_every_stage_depends_on_what_the_check_wrote_for_it(stage: str):
    """On no code or parameter by itself. So it waits for the check, and a mistake in params.yaml costs no output."""
    assert f"data/inputs/{stage}.json" in STAGES[stage]["deps"]
    assert not [dep for dep in STAGES[stage]["deps"] if dep.startswith(("fedpipe", "stages", "own", "params"))]
    assert "params" not in STAGES[stage]
    assert stage in inputs(Pipeline())


def test_the_check_depends_on_all_code_and_all_parameters():
    assert {"fedpipe", "stages", "own"} <= set(STAGES["check"]["deps"])
    assert STAGES["check"]["params"] == [{"params.yaml": None}]


@pytest.mark.parametrize("stage", ["download", "partition", "federated", "baseline", "local"])
@pytest.mark.slow
def test_a_stage_starts_without_slow_modules_that_it_does_not_need(stage: str):
    """It starts in about the time of importing torch."""
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    slow = {"dvc", "pandas", "matplotlib", "torchvision", "sklearn", "ray", "vl_convert", "sympy"}
    assert slow & set(shown.stdout.split()) == set()


@pytest.mark.parametrize("stage", ["compare", "report"])
def test_a_stage_that_trains_nothing_starts_without_torch(stage: str):
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"dvc", "torch", "matplotlib", "sklearn"} & set(shown.stdout.split()) == set()


def test_importing_the_package_imports_nothing_of_it():
    code = "import sys, fedpipe; print(*(name for name in sys.modules if name.split('.')[0] in ('fedpipe', 'torch')))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["fedpipe"]


def test_whatever_the_package_exports_is_where_it_says():
    assert all(getattr(fedpipe, name).__name__ == name for name in fedpipe.__all__)
    assert set(fedpipe.__all__) <= set(dir(fedpipe))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fedpipe.nothing  # noqa: B018


def test_device_and_precision_are_the_only_parameters_in_compute_that_count():
    """The others decide how fast a stage is, never what it makes."""
    counting = {stage: set(given["parameters"].get("compute", {})) for stage, given in inputs(Pipeline()).items()}
    for stage in ("federated", "baseline", "local"):
        assert counting.pop(stage) == {"device", "precision"}
    assert not any(counting.values())


def test_parameters_of_what_is_not_chosen_do_not_count():
    before = inputs(Pipeline())
    for changes in (
        {"federated": {"fedprox": {"mu": 0.5}, "clip": {"norm": 3.0}}},
        {"partition": {"dirichlet": {"alpha": 0.1}, "feature": {"noise": 0.5}}},
        {"model": {"resnet": {"blocks": 3}}},
        {"download": {"path": "elsewhere", "split_seed": 3, "retries": 7}},
        {"compute": {"workers": 1, "engine": "threads", "checkpoint_every": 7.0}},
    ):
        assert inputs(Pipeline.model_validate(changes)) == before
    validated = [inputs(Pipeline.model_validate({"download": {"validation": 0.1, "split_seed": n}})) for n in (0, 3)]
    assert validated[0]["download"] != validated[1]["download"]
    chosen = {"federated": {"strategy": "fedprox", "fedprox": {"mu": 0.5}}}
    counted = inputs(Pipeline.model_validate(chosen))["federated"]["parameters"]["federated"]
    assert counted["fedprox"] == {"mu": 0.5}
