"""Notebooks: the tour of examples/, and what a run shows in a notebook; in real kernels."""

import os
import re
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any, ClassVar

import nbformat
import pytest
from nbclient import NotebookClient

from benchmarks.lines import count
from tests.conftest import ROOT

TOUR = ROOT / "examples/tour.ipynb"
PAGE = ROOT / "docs/how-to/notebook.md"


class Watched(NotebookClient):
    """Executes a notebook, and remembers what its frontend was told, in order."""

    told: ClassVar[list[str]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            self.told.extend(msg["content"]["text"].splitlines())
        elif msg["msg_type"] in ("display_data", "update_display_data"):
            bar = re.search(r"(\d+)/(\d+)", re.sub("<[^>]*>", "", msg["content"]["data"]["text/html"]))
            self.told.append(f"bar at {bar[0]}" if bar else "no bar")
        return super().process_message(msg, cell, cell_index)


@pytest.fixture
def execute(tmp_path: Path):
    """Return a function that runs a notebook in a new kernel without ipywidgets, and returns the outputs of its cells.

    It runs in an empty folder, in which it must leave nothing.
    """
    (tmp_path / "ipywidgets.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    surroundings = {**os.environ, "PYTHONPATH": path, "IPYTHONDIR": str(tmp_path / "ipython")}
    folder = tmp_path / "folder"
    folder.mkdir()
    Watched.told.clear()

    def run(notebook: Any) -> list[list[Any]]:
        Watched(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute(env=surroundings)
        assert list(folder.iterdir()) == []
        return [cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"]

    return run


def notebook(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def test_a_bar_moves_while_lines_are_printed_and_stays_above_them(execute: Any):
    steps = """
import time
from fedpipe.system import console

with console.progress("steps", 3) as bar:
    for step in (1, 2, 3):
        time.sleep(0.15)
        bar.advance()
        console.say(f"[step] {step}")
        print("and on")
"""
    [outputs] = execute(notebook(steps))
    assert Watched.told == [
        "no bar", "bar at 0/3", "bar at 1/3", "[step] 1", "and on", "bar at 2/3", "[step] 2", "and on",
        "bar at 3/3", "[step] 3", "and on", "bar at 3/3",
    ]  # fmt: skip
    assert [output.output_type for output in outputs].count("display_data") == 1


SMALL = "model='logistic', rounds=3, clients=6, clients_per_round=3, local={'epochs': 1}"


@pytest.mark.slow
def test_a_run_shows_a_bar_and_its_lines_once_and_in_order_and_quietly_nothing(execute: Any):
    loud, quiet, shown = execute(
        notebook(
            f"import fedpipe\nprint('before')\nresult = fedpipe.run({SMALL})\nprint('after')",
            f"fedpipe.run({SMALL}, quiet=True);",
            "result",
        )
    )
    lines = [line for line in Watched.told if not line.endswith("bar") and not line.startswith("bar at")]
    assert [line.split()[:2] for line in lines] == [
        ["before"], ["MNIST", "is"], ["round", "1:"], ["round", "2:"], ["round", "3:"], ["after"],
    ]  # fmt: skip
    [bar] = [output for output in loud if output.output_type == "display_data"]
    assert "9/9</span> client updates" in bar["data"]["text/html"]
    assert {output.name for output in loud if output.output_type == "stream"} == {"stdout"}
    assert quiet == []
    assert "<table" in shown[0]["data"]["text/html"]


def test_a_class_defined_in_a_notebook_is_told_apart_by_its_cells(execute: Any):
    """The same text is the same class; with a change in a method, of its own or of its base, it is another."""
    first = """
import fedpipe

class Fixed(fedpipe.Strategy):
    def server_update(self, weights, aggregate, state):
        return weights{change}, state
"""
    then = "class Derived(Fixed):\n    def has_own(self):\n        return True"
    say = """
from fedpipe.federated.settings import Federated
print(Federated(strategy=Derived()).model_dump(mode="json")["strategy"]["code"])
"""
    execute(
        notebook(
            first.format(change=""),
            then,
            say,
            first.format(change=" + 1"),
            then,
            say,
            first.format(change=""),
            then,
            say,
        )
    )
    one, other, again = Watched.told
    assert one == again != other


@pytest.mark.slow
def test_the_tour_runs_and_what_it_claims_holds(execute: Any):
    tour = nbformat.read(TOUR, as_version=4)
    execute(tour)
    outputs = {cell["id"]: cell["outputs"] for cell in tour.cells if cell.cell_type == "code"}
    for picture in ("plot", "grid-plot", "spread-plot"):
        assert "image/png" in outputs[picture][0]["data"]
    interrupted = "".join(str(output) for output in outputs["checkpoint-run"])
    assert "interrupted before: going on after round 3 of 8" in interrupted
    assert "80/80</span> client updates" in interrupted
    predicted, image = outputs["module-run"]
    assert sum(said == str(digit) for digit, said in enumerate(predicted["text"].split())) >= 7
    assert "image/png" in image["data"]


def test_the_tour_is_committed_without_outputs():
    tour = nbformat.read(TOUR, as_version=4)
    nbformat.validate(tour)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
def test_the_page_about_python_runs(tmp_path: Path):
    """In an empty folder, as one script."""
    script = tmp_path / "the_page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script], cwd=tmp_path / "empty", env=environment, check=True)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["accuracy.png", "checkpoints"]


def test_only_lines_on_which_something_stands_count(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        '"""Say\n\nmore."""\n\n# why\nx = [\n    1,  # one\n\n]\ndef f():\n    """Return."""\n    return """a\nb"""\n'
    )
    assert count(script) == 6
    settings = tmp_path / "settings.yaml"
    settings.write_text("# all\na: 1\n\n  # b: 2\nc: 3  # yes\n")
    assert count(settings) == 2


@pytest.mark.parametrize("name", ["fedprox", "own_model"])
def test_the_page_counts_the_lines_of_the_quickstarts(name: str):
    row = re.search(rf"^\| fedpipe, \[{name}\.py\]\(\S+\) \| (\d+) \| 1 \|", PAGE.read_text(), re.MULTILINE)
    assert row
    assert count(ROOT / f"benchmarks/quickstarts/{name}.py") == int(row[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedprox", "own_model"])
def test_the_quickstarts_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    run_path(str(ROOT / f"benchmarks/quickstarts/{name}.py"), run_name="__main__")
    assert "after 3 rounds>" in capsys.readouterr().out
