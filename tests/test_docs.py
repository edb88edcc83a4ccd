"""What the README and the pages of docs/ tell a reader to write works, and what they say of the code is so."""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from ruamel.yaml import YAML

import fedpipe
from benchmarks import __main__ as benchmarks
from docs import hooks, pictures
from fedpipe import cli
from fedpipe.config.section import Section, with_blocks
from fedpipe.data.datasets import Dataset
from fedpipe.data.partition import JOINED, PARTITIONERS
from fedpipe.data.skew import skew
from fedpipe.data.sources import ORIGINALS, OWN
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.context import ClientContext, LocalResult, LocalTraining, ServerContext
from fedpipe.federated.messages import ClientReport, Task, Update
from fedpipe.federated.strategies import STRATEGIES, Strategy
from fedpipe.models import MODELS
from fedpipe.models.parameters import initial_parameters, network_with, skeleton
from fedpipe.pipeline import Pipeline, check, inputs
from fedpipe.system.randomness import generator
from fedpipe.training.images import normalised
from tests.conftest import ROOT, Reproduced, cells, once, run
from tests.federations import MNIST

TEXTS = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
PAGES = pytest.mark.parametrize("page", TEXTS)


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: str
    language: str
    title: str | None  # the path of the file that it shows
    code: str
    not_run: str | None  # why it is not


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    fence = r'(?:<!-- not run: (.*?) -->\n)?^( *)```(\w*)(?: title="(.*?)")?\n(.*?)^\2```$'
    for reason, _, language, title, code in re.findall(fence, TEXTS[page], re.DOTALL | re.MULTILINE):
        yield Block(page, language, title or None, code, reason or None)


# Pages that have a test of their own, which runs their blocks.
ELSEWHERE = {
    "docs/how-to/notebook.md": "tests/test_examples.py",
    "docs/how-to/remote.md": "tests/test_remote.py",
    "docs/how-to/seeds.md": "tests/test_summary.py",
}
BLOCKS = [block for page in TEXTS if page not in ELSEWHERE for block in blocks(page)]


def run_on(language: str, *, titles: bool = True) -> dict[str, list[str]]:
    """What of a language is run, by page: also what is a file of the reader's, or not."""
    found = defaultdict(list)
    for block in BLOCKS:
        if block.language == language and not block.not_run and (titles or not block.title):
            found[block.page].append(block.code)
    return found


BASH, PYTHON = run_on("bash"), run_on("python")
SERVER = ServerContext(1, 2, 0, {})  # the first round
PARAMETERS = run_on("yaml", titles=False)

# The blocks of params.yaml of classes that pages define.
OWN_BLOCKS = [("federated", "Damped"), ("federated", "FedExP"), ("model", "Perceptron"), ("partition", "Clusters")]


def names_of(app: typer.Typer) -> set[str]:
    """The commands of a program."""
    commands = {command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback}
    return commands | {str(group.name) for group in app.registered_groups}


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows."""
    for block in BLOCKS:
        if block.page == page and block.title:
            (folder / block.title).parent.mkdir(exist_ok=True)
            (folder / block.title).write_text(block.code)


def example(name: str) -> Any:
    """Return the class of that name that a page defines."""
    [code] = [block.code for block in BLOCKS if block.title and f"class {name}(" in block.code]
    scope: dict[str, Any] = {"__name__": "page"}
    exec(code, scope)
    return scope[name]


# What is run


def test_each_block_of_code_is_of_a_class_that_says_what_becomes_of_it():
    assert len(BLOCKS) > 50
    assert sum(text.count("\n```") for page, text in TEXTS.items() if page not in ELSEWHERE) == 2 * len(BLOCKS)
    assert {block.language for block in BLOCKS} == {"bash", "python", "text", "yaml"}


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_whose_blocks_are_run_elsewhere_is_read_there(page: str):
    assert f'"{page}"' in (ROOT / ELSEWHERE[page]).read_text()


def test_what_is_not_run_is_this_alone():
    assert sorted((block.page, block.not_run) for block in BLOCKS if block.not_run) == [
        ("README.md", "it installs 6 GB; CI begins with it"),
        ("docs/architecture.md", "it is the tests themselves"),
        ("docs/data.md", "needs the four files of MNIST, or a network"),
        ("docs/how-to/ci.md", "needs a network"),
        ("docs/how-to/ci.md", "tests/test_project.py runs it"),
        ("docs/how-to/gpu.md", "needs a GPU"),
        ("docs/how-to/ray.md", "needs a cluster"),
        ("docs/how-to/watch.md", "it ends with Ctrl-C"),
        ("docs/how-to/watch.md", "it serves until it is stopped"),
        ("docs/how-to/watch.md", "needs another machine"),
        ("docs/local.md", "it needs the data of a pipeline in the folder"),
        ("docs/tutorial.md", "it installs 6 GB; CI begins with it"),
        ("docs/writing.md", "serves until it is stopped"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path):
    """In an empty folder, as one script."""
    (tmp_path / "page.py").write_text("\n".join(PYTHON[page]))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def project(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after `dvc repro`. Its copies share DVC's cache."""

    def make(folder: Path) -> None:
        cache = folder.with_name("cache of pages")
        (reproduced.copy(folder) / ".dvc/cache").rename(cache)
        run(f"dvc config --local cache.dir '{cache}'", folder)

    return once("pages", make, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize("page", BASH)
def test_the_commands_of_a_page_run(page: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Line by line, in a copy of the project."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(folder))  # the program fedpipe, as if it were installed from there
    write_files(page, folder)
    for code in BASH[page]:
        for line in code.replace("\\\n", " ").splitlines():
            output = run(line, folder)
            for columns in re.findall(r"--keep '(.*?)'", line):
                assert all(column in output for column in columns.split("|")), output


def test_every_command_sets_parameters_that_there_are():
    """Those of the examples come with them."""
    parameters = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    for section, name in OWN_BLOCKS:
        parameters[section][name] = example(name)().model_dump()
    keys = [key for text in TEXTS.values() for key in re.findall(r"-S '?\+*([\w.-]+)=", text)]
    assert len(keys) > 40
    for key in keys:
        block = parameters
        for name in key.split("."):
            assert name in block, key
            block = block[name]


@pytest.mark.parametrize("page", PARAMETERS)
def test_the_parameters_of_a_page_pass_the_check(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each block in a params.yaml of its own, beside the files of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    write_files(page, tmp_path)
    for block in PARAMETERS[page]:
        parameters, given = (YAML(typ="safe", pure=True).load(text) for text in (ROOT / "params.yaml", block))
        for section, values in given.items():
            parameters[section] |= values
        YAML().dump(parameters, tmp_path / "params.yaml")
        in_use = check().in_use()
        for section, values in given.items():
            for own in (value for value in values.values() if isinstance(value, dict)):
                assert any(isinstance(one, dict) and one.items() >= own.items() for one in in_use[section].values())


@pytest.mark.parametrize(
    ("program", "known"),
    [
        ("make", set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))),
        ("fedpipe", names_of(cli.app)),
        ("python -m benchmarks", names_of(benchmarks.app)),
        ("python -m", {"benchmarks", "benchmarks.lines", "docs.pictures", "stages.NAME", "tests.kills"}),
    ],
)
def test_commands_in_the_text_are_there(program: str, known: set[str]):
    for page, text in TEXTS.items():
        for command in re.findall(rf"`{program} ([\w.-]+)", text):
            assert command in known or command.startswith("--"), page


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder], cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout
    assert built.stdout == ""
    return folder


def test_the_site_loads_nothing_from_the_web(site: Path):
    web = r"(?:https?:)?//"
    loaded = rf"""<(?:script|img|iframe)\b[^>]*\bsrc="?{web}|<link\b[^>]*\bhref="?{web}|@import|url\(["']?{web}"""
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > len(TEXTS)
    for page in pages:
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)  # what code shows is not loaded
        assert not re.findall(loaded, text), page


def test_a_link_that_names_something_of_the_code_leads_to_its_line(site: Path):
    page = (site / "algorithms/scaffold.html").read_text()
    source = (ROOT / "fedpipe/federated/strategies/scaffold.py").read_text().splitlines()
    [line] = [number for number, line in enumerate(source, start=1) if "def on_client(" in line]
    anchor = f"__span-0-{line}"
    assert f'href="../code/fedpipe/federated/strategies/scaffold.py.html#{anchor}"' in page
    assert f'id="{anchor}"' in (site / "code/fedpipe/federated/strategies/scaffold.py.html").read_text()


def test_formulas_have_subscripts_and_names_have_none():
    assert hooks.scripts("w_{t+1}, Δc_k and F_k^(q-1), ρ^τ_k") == (
        "w<sub>t+1</sub>, Δc<sub>k</sub> and F<sub>k</sub><sup>q-1</sup>, ρ<sup>τ<sub>k</sub></sup>"
    )
    for name in ("per_client", "server_update", "a_name", "__init__", "x_1.py"):
        assert hooks.scripts(name) == name


@PAGES
def test_files_that_a_page_links_are_there(page: str):
    for path in re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"`[^`\n]*`", "", TEXTS[page])):
        assert (ROOT / page).parent.joinpath(path).resolve().is_file(), path


@PAGES
def test_names_that_a_page_links_are_defined_where_it_says(page: str):
    for text, target in hooks.outside(str(PurePosixPath(page).relative_to("docs"))) if page != "README.md" else ():
        name = hooks.defined_name(text)
        if name and target.suffix == ".py":
            assert hooks.line_of(target, name) > 0


def test_a_name_that_a_file_does_not_define_is_an_error():
    file = PurePosixPath("fedpipe/federated/strategies/scaffold.py")
    with pytest.raises(ValueError, match=r"scaffold\.py defines no Scaffold\.on_server"):
        hooks.line_of(file, "Scaffold.on_server")


def test_every_page_stands_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    for page in TEXTS:
        if page != "README.md":
            assert len(re.findall(rf"[ :]{re.escape(page.removeprefix('docs/'))}$", config, re.MULTILINE)) == 1, page


# Tables


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_stands_in_the_table_of_algorithms(name: str):
    assert re.search(rf"^`federated\.strategy: .*\b{name}`", page_of(name), re.MULTILINE)


def page_of(strategy: str) -> str:
    """The page that describes a strategy."""
    [page] = re.findall(rf"^\| \[`{strategy}`\]\((\w+\.md)\)", TEXTS["docs/algorithms/index.md"], re.MULTILINE)
    return TEXTS[f"docs/algorithms/{page}"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_of_a_strategy_cites_its_paper(name: str):
    [cited] = set(re.findall(r"arXiv:([\d.]+\d)", page_of(name).split("##")[0]))
    kind = STRATEGIES[name]
    assert any(cited in (one.__doc__ or "") for one in kind.__mro__ if issubclass(one, Strategy))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_of_a_strategy_shows_where_all_of_its_code_is(name: str):
    own = [one for one in STRATEGIES[name].__mro__ if issubclass(one, Strategy) and one is not Strategy]
    for kind in own:
        for method in vars(kind):
            if method in vars(Strategy) and callable(getattr(Strategy, method)) and not method.startswith("_"):
                assert f"[`{kind.__name__}.{method}`]" in page_of(name)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_of_a_strategy_has_its_parameters_and_their_defaults(name: str):
    rows = re.findall(rf"^\| `federated\.{name}\.(\w+)` \| ([\d.]+) \|", page_of(name), re.MULTILINE)
    fields = STRATEGIES[name].model_fields
    assert {parameter: float(default) for parameter, default in rows} == {
        parameter: field.default for parameter, field in fields.items()
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_of_a_strategy_has_its_costs(name: str):
    """How many numbers are sent and kept, in units of d and one by one."""
    header = "| sent to a client besides the model | sent by a client | kept by a client | kept by the server |"
    [row] = re.findall(rf"^{re.escape(header)}\n.*\n\| (.*) \|$", page_of(name), re.MULTILINE)
    strategy, d = STRATEGIES[name](), 1000
    [(plain, context)] = plain_updates(torch.full((1, d), 0.5), received=strategy.broadcast({}, d))
    update = strategy.on_client(plain, context, LocalResult(plain.delta, steps=1, mean_gradient=torch.zeros(d)))
    mean = Mean()
    arrived = strategy.on_arrival(update, Task(0, 1, weight=1.0, client_weight=1.0))
    aggregate = mean.result(mean.add(mean.empty(), arrived), SERVER)
    _, remembered = strategy.server_update(torch.zeros(d, dtype=torch.float64), aggregate, {})
    vectors = [context.received, {"delta": update.delta, **update.sums}, context.state, remembered]
    scalars = [0, len(update.scalars), 0, 0]
    assert row.split(" | ") == [
        f"{sum(tensor.numel() for tensor in one.values()) / d:g} d" + (f" + {more}" if more else "")
        for one, more in zip(vectors, scalars, strict=True)
    ]


def test_each_data_set_stands_in_its_table_as_it_is():
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([\d,]+) \| (\d+) x (\d+) x (\d) \| (\d+) \|$", TEXTS["docs/data.md"], re.MULTILINE
    )
    assert {name: tuple(int(number.replace(",", "")) for number in numbers) for name, *numbers in rows} == {
        name: (original.train_examples, *original.shape, original.classes) for name, original in ORIGINALS.items()
    }
    assert f"| `{OWN}` |" in TEXTS["docs/data.md"]


def test_each_model_stands_in_its_table_with_its_parameters():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) \|.*\|$", TEXTS["docs/models.md"], re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in rows} == {
        name: sum(parameter.numel() for parameter in skeleton(model().on(MNIST)).parameters())
        for name, model in MODELS.items()
    }


def test_each_room_stands_in_the_table_of_rooms():
    [table] = re.findall(r"^\| room of `fedpipe/` .*?\n\n", TEXTS["docs/architecture.md"], re.DOTALL | re.MULTILINE)
    named = {
        name.strip("/") for row in table.split("\n| ")[1:] for name in re.findall(r"`([\w/]+)`", row.split("|")[0])
    }
    assert named == {module.name for module in iter_modules(fedpipe.__path__)} - {"__main__"}


def rerun_with(stages: set[str]) -> set[str]:
    """Return these stages and all that depend on what they make, by dvc.yaml."""
    described = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    for stage, one in described.items():  # each after those that it depends on
        made = [
            path if isinstance(path, str) else next(iter(path))
            for before in stages - {"check"}
            for kind in ("outs", "metrics", "plots")
            for path in described[before].get(kind, [])
        ]
        if any(dep.startswith(path) for dep in one["deps"] for path in made):
            stages = stages | {stage}
    return stages


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("federated.fedprox.mu", 0.5),
        ("compute.workers", 1),
        ("compute.engine", "threads"),
        ("download.retries", 0),
        ("federated.local.lr", 0.1),
        ("partition.scheme", "shards"),
        ("model.name", "2nn"),
    ],
)
def test_what_runs_again_is_what_the_page_says(change: str, value: object):
    parameters = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    *path, last = change.split(".")
    block = parameters
    for name in path:
        block = block[name]
    assert block[last] != value
    before = inputs(Pipeline.model_validate(parameters))
    block[last] = value
    after = inputs(Pipeline.model_validate(parameters))
    [row] = re.findall(rf"^\| [^|\n]*`{re.escape(change)}`[^|\n]* \| (.*) \|$", TEXTS["docs/reruns.md"], re.MULTILINE)
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert rerun_with({"check"} | changed) == set(re.findall(r"`(\w+)`", row))


def test_the_code_of_the_training_loop_is_of_the_stages_that_the_page_says():
    [row] = re.findall(r"^\| the code of the training loop \| (.*) \|$", TEXTS["docs/reruns.md"], re.MULTILINE)
    using = {stage for stage, given in inputs(Pipeline()).items() if "fedpipe/training/loop.py" in given["code"]}
    assert rerun_with({"check"} | using) == set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize("scheme", [*PARTITIONERS, *JOINED])
def test_each_scheme_stands_in_its_table(scheme: str):
    assert re.search(rf"^\| `{scheme}` \|", TEXTS["docs/partitions.md"], re.MULTILINE)


def test_the_table_of_skew_is_of_the_partitions_in_the_pictures(sample: Dataset):
    rows = re.findall(
        r"^\| (`[^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", TEXTS["docs/partitions.md"], re.MULTILINE
    )
    symbols = {"alpha": "α"}
    for (row, *figures), parameters in zip(rows, pictures.COUNTED.values(), strict=True):
        blocks = [block for block in parameters.values() if isinstance(block, dict)]
        given = [f", {symbols.get(key, f'`{key}`')} = {value}" for block in blocks for key, value in block.items()]
        assert row == f"`{parameters['scheme']}`{''.join(given)}"
        measured = skew(pictures.counts(parameters, sample.train))
        assert figures == [f"{abs(measured[name]):.2f}" for name in ("label_entropy", "jensen_shannon", "gini")]


@pytest.mark.slow
def test_the_pictures_are_what_is_drawn():
    drawn = pictures.pictures()
    assert {file.name for file in pictures.FOLDER.iterdir()} == set(drawn)
    for name, picture in drawn.items():
        there = np.asarray(Image.open(pictures.FOLDER / name).convert("RGB"), dtype=float)
        np.testing.assert_allclose(np.asarray(picture.convert("RGB"), dtype=float), there, atol=2, err_msg=name)
        assert f"](images/partitions/{name})" in TEXTS["docs/partitions.md"]


@pytest.mark.parametrize("flag", ["epoch", "batch_size", "global_epoch", "local_epoch", "init_lr", "num_clients",
                                  "num_select_clients", "data_dir"])  # fmt: skip
def test_each_of_the_references_flags_has_its_parameter(flag: str):
    assert re.search(rf"^\| `--{flag}` \|.*\| .*`[\w.]+`.* \|$", TEXTS["docs/results.md"], re.MULTILINE)


# The examples of one's own classes


def test_the_partitioner_divides_and_its_block_holds_its_parameter(sample: Dataset):
    @with_blocks({"clusters": example("Clusters")})
    class Partition(Section):
        scheme: str = "clusters"

    settings: Any = Partition.model_validate_json('{"clusters": {"groups": 5}}')
    labels, weights = sample.train.labels.numpy(), np.full(20, 1 / 20)
    parts = settings.clusters.assign(labels, weights, generator(0, "partition"))
    assert sorted(np.concatenate(parts).tolist()) == list(range(4000))
    for client, part in enumerate(parts):
        assert set(labels[part]) == {client % 5, client % 5 + 5}
        assert len(part) == 200


def plain_updates(
    deltas: torch.Tensor, received: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> list[tuple[Update, ClientContext]]:
    """Return the updates of clients of equal size as training makes them, each with its client's context."""
    updates = []
    for client, delta in enumerate(deltas):
        report = ClientReport(1, client, 10, 1, 0.0, None, None, 0, None, None)
        context = ClientContext(
            round=1, client=client, client_weight=1 / len(deltas), training=LocalTraining(),
            start=torch.zeros_like(delta), received=received, start_loss=lambda: 0.0, seed=0,
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
    FedExP = example("FedExP")
    deltas = torch.tensor([[1.0, 2.0], [-1.0, 2.5]])
    updates = sent_by(FedExP(), deltas)
    assert [dict(update.scalars) for update in updates] == [{"square": pytest.approx(x)} for x in (5.0, 7.25)]
    mean = Mean()
    aggregate = mean.result(mean.add(mean.add(mean.empty(), updates[0]), updates[1]), SERVER)
    start = torch.zeros(2, dtype=torch.float64)
    w, remembered = FedExP(eps=0.1).server_update(start, aggregate, {})
    assert remembered == {}
    torch.testing.assert_close(w, max(1, 6.125 / (2 * (2.25**2 + 0.1))) * deltas.double().mean(0))
    [alone] = sent_by(FedExP(), deltas[:1])
    agreeing = mean.result(mean.add(mean.empty(), alone), SERVER)
    torch.testing.assert_close(FedExP().server_update(start, agreeing, {})[0], deltas[0].double())


def test_the_transform_halves_the_message_and_rounds_to_float16():
    half = example("Half")()
    deltas = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    mean, total = Mean(), Mean().empty()
    for update, context in plain_updates(deltas):
        sent = Update.decode(half.on_client(update, context).encode())
        assert len(sent.encode()) < len(update.encode()) - 2 * 5000 + 10
        np.testing.assert_allclose(sent.delta.double(), update.delta.double(), rtol=2.0**-11, atol=2.0**-24)
        total = mean.add(total, sent)
    torch.testing.assert_close(mean.result(total, SERVER).delta, deltas.half().double().mean(0))


@pytest.mark.parametrize("name", ["Clusters", "FedExP", "Half"])
def test_a_page_counts_the_lines_of_its_example(name: str):
    [block] = [block for block in BLOCKS if block.title == f"own/{name.lower()}.py"]
    assert f"class {name}(" in block.code
    file = re.search(rf"`{block.title}`.*?1\s+new\s+file\s+of\s+(\d+)\s+lines", TEXTS[block.page], re.DOTALL)
    assert file
    assert int(file[1]) == len(block.code.splitlines())


def test_the_model_maps_images_to_logits(sample: Dataset):
    architecture = example("Perceptron")(hidden=20).on(MNIST)
    parameters = initial_parameters(architecture, 0)
    assert sum(tensor.numel() for tensor in parameters.values()) == 784 * 20 + 20 + 20 * 10 + 10
    logits = network_with(architecture, parameters)(normalised(sample.test.images, MNIST))
    assert logits.shape == (1000, 10)
    assert torch.isfinite(logits).all()


def _cells(page: str, first: str) -> list[list[str]]:
    """The rows of each table of a page whose header begins with this."""
    lines = page.splitlines()
    rows: list[list[str]] = []
    for at in (place for place, line in enumerate(lines) if line.startswith(first)):
        for line in takewhile(lambda line: line.startswith("|"), lines[at + 2 :]):
            rows.append(cells(line))
    return rows


@pytest.mark.parametrize("what", ["accuracy", "backdoor"])
def test_the_tables_of_attacks_are_those_of_the_studies(what: str):
    """Means over seeds, in whole percent; × where a run diverged."""
    page = TEXTS["docs/robustness.md"]
    names = "| mean | bounding | clipping | median | trimmed | geometric | Krum | multi-Krum | Bulyan | nnm + trimmed |"
    shown = _cells(page, f"| attack {names}" if what == "accuracy" else f"| {names}")
    columns = cells(names)
    expected: list[list[str]] = []
    for study, label in (("robustness-iid", "alike"), ("robustness-dirichlet", "skewed")):
        table = pd.read_csv(ROOT / f"studies/{study}/results.csv")
        table = table[table["measure"] == what]
        attacks = [name for name in dict.fromkeys(table["attack"]) if what == "accuracy" or name.startswith("backdoor")]
        for attack in attacks:
            runs = [table[(table["attack"] == attack) & (table["aggregation"] == one)] for one in columns]
            numbers = ["×" if "diverged" in of["state"].tolist() else f"{100 * of['value'].mean():.0f}" for of in runs]
            expected.append([attack.replace("backdoor", label) if what == "backdoor" else attack, *numbers])
    assert sorted(shown) == sorted(expected)
