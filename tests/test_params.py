"""What params.yaml says is what runs; a mistake in it is one line that says where, what, and what would work."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from pydantic import Field, PositiveInt
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from fedpipe.baseline import CentralisedExperiment
from fedpipe.cli import PARAMS_HEAD
from fedpipe.config.file import parameters_from
from fedpipe.config.section import NonNegativeFloat, PositiveFloat, Section
from fedpipe.config.template import as_markdown, as_yaml
from fedpipe.experiment import Experiment
from fedpipe.federated.transforms import TRANSFORMS
from fedpipe.pipeline import Pipeline, check
from fedpipe.system.errors import ParameterError, UserError
from stages.partition import Settings
from tests.conftest import ROOT

PARAMS = (ROOT / "params.yaml").read_text()


def changed(dotted: str, value: object, text: str = PARAMS) -> str:
    """Return params.yaml with one value changed, as `dvc exp run -S` changes it."""
    document = YAML(typ="safe", pure=True).load(text)
    *path, last = dotted.split(".")
    block = document
    for key in path:
        block = block[key]
    block[last] = value
    output = StringIO()
    YAML().dump(document, output)
    return output.getvalue()


def complaint_about(text: str, folder: Path) -> str:
    """Return what the check says of a params.yaml with this text."""
    path = folder / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        check(path)
    return str(error.value)


def fields(section: type[Section], path: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field of a section and of the sections in it, with its dotted path."""
    for name, field in section.model_fields.items():
        yield f"{path}.{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{path}.{name}")


def test_the_file_states_every_parameter_and_its_default():
    document = YAML(typ="safe", pure=True).load(PARAMS)
    assert document == Pipeline().model_dump()


def test_the_files_comments_are_the_parameters_descriptions():
    """There is one source: the file is what `fedpipe params` prints."""
    assert f"{PARAMS_HEAD}\n{as_yaml(Pipeline())}\n" == PARAMS


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("federated.rounds", "9"),
        ("federated.local.lr", "1e-05"),
        ("federated.local.lr", "100000.0"),
        ("federated.local.batch_size", "null"),
        ("federated.local.clip_norm", "0.5"),
        ("federated.patience", "3"),
        ("download.offline_sample", "false"),
        ("model.name", "2nn"),
        ("partition.scheme", "dirichlet+quantity"),
        ("compute.ray_address", "localhost:6379"),
        ("compute.workers", "2"),
    ],
)
def test_setting_a_parameter_with_dvc_changes_one_line_and_setting_it_back_none(
    dotted: str, value: str, tmp_path: Path
):
    """By what `dvc exp run -S` calls; so no experiment leaves other changes in git than its own."""
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    apply_overrides(path, [f"{dotted}={value}"])
    before, after = PARAMS.splitlines(), path.read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert as_yaml(check(path)).splitlines() == after[3:]  # which are not the head: written as DVC writes
    default = YAML(typ="safe", pure=True).load(PARAMS)
    for key in dotted.split("."):
        default = default[key]
    apply_overrides(path, [f"{dotted}={json.dumps(default)}"])
    assert path.read_text() == PARAMS


class Bounded(Section):
    """Have a parameter of each kind."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="A.")
    maybe: PositiveInt | None = Field(default=None, description="B.")
    count: Annotated[int, Field(ge=2, lt=2000)] | None = Field(default=1500, description="C.")
    rate: NonNegativeFloat = Field(default=1e-05, description="D.")
    largest: PositiveFloat = Field(default=1.0, description="E.")
    half: Annotated[float, Field(ge=-0.5)] = Field(default=0.0, description="F.")
    either: Literal["a", "b"] = Field(default="a", description="G.")
    both: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="H.")
    switch: bool = Field(default=True, description="I.")
    text: str = Field(default="1e-3", description="J.")


def test_comments_tell_the_bounds_of_every_kind_of_parameter():
    expected = """\
# A. More than 0, at most 1.
share: 0.5

# B. At least 1, or null.
maybe:

# C. At least 2, less than 2,000, or null.
count: 1500

# D. At least 0.
rate: 1e-05

# E. More than 0.
largest: 1.0

# F. At least -0.5.
half: 0.0

# G. One of a, b.
either: a

# H. At least 1, or auto.
both: auto

# I.
switch: true

# J.
text: '1e-3'"""
    assert as_yaml(Bounded()) == expected


def test_tables_tell_the_kind_and_the_bounds_of_every_parameter():
    rows = as_markdown(Bounded()).splitlines()
    assert rows[:2] == ["| parameter | default | values | meaning |", "| --- | --- | --- | --- |"]
    assert rows[2:] == [
        "| `share` | `0.5` | number, more than 0, at most 1 | A. |",
        "| `maybe` | `null` | whole number, at least 1, or null | B. |",
        "| `count` | `1500` | whole number, at least 2, less than 2,000, or null | C. |",
        "| `rate` | `1e-05` | number, at least 0 | D. |",
        "| `largest` | `1.0` | number, more than 0 | E. |",
        "| `half` | `0.0` | number, at least -0.5 | F. |",
        "| `either` | `a` | one of a, b | G. |",
        "| `both` | `auto` | whole number, at least 1, or auto | H. |",
        "| `switch` | `true` | true or false | I. |",
        "| `text` | `1e-3` | text | J. |",
    ]


@pytest.mark.parametrize("at", ["seed", "federated", "federated.local", "federated.rounds", "federated.local.lr"])
def test_a_part_of_the_file_is_a_file_with_this_part_alone(at: str):
    part, whole = YAML(typ="safe", pure=True).load(as_yaml(Pipeline(), at)), Pipeline().model_dump()
    for key in at.split("."):
        assert list(part) == [key]
        part, whole = part[key], whole[key]
    assert part == whole


@pytest.mark.parametrize(
    ("at", "line"),
    [
        ("federated.locl", "federated.locl: unknown parameter; did you mean federated.local?"),
        ("clients_per_round", "clients_per_round: unknown parameter; did you mean federated.clients_per_round?"),
        ("local.lr", "local.lr: unknown parameter; did you mean federated.local.lr?"),
        ("zzz", "zzz: unknown parameter; `fedpipe params` prints all there are"),
    ],
)
@pytest.mark.parametrize("text", [as_yaml, as_markdown])
def test_the_message_about_an_unknown_part_names_the_nearest(text: Callable[..., str], at: str, line: str):
    with pytest.raises(UserError) as error:
        text(Pipeline(), at)
    assert str(error.value) == line


@pytest.mark.parametrize("section", [Pipeline, Experiment, CentralisedExperiment, Settings])
def test_every_parameter_has_a_description_of_whole_sentences(section: type[Section]):
    found = dict(fields(section, section.__name__))
    assert len(found) > len(section.model_fields)  # blocks were entered
    without = [path for path, field in found.items() if not (field.description or "").endswith(".")]
    assert without == []


def test_the_defaults_are_the_reference_but_for_the_learning_rate():
    pipeline = check(ROOT / "params.yaml")
    assert pipeline.partition.clients == 8
    assert pipeline.federated.clients_per_round == 4
    assert pipeline.federated.rounds == 5
    assert pipeline.federated.local.epochs == 5
    assert pipeline.federated.local.batch_size == pipeline.baseline.batch_size == 100
    assert pipeline.federated.local.optimizer == pipeline.baseline.optimizer == "adam"
    assert pipeline.baseline.epochs == 15
    assert pipeline.federated.local.lr == pipeline.baseline.lr == 1e-3


MISTAKES = [
    ("federated.clients_per_round", 50, "federated.clients_per_round: 50 exceeds partition.clients = 8"),
    ("federated.local.batch_size", 0, "federated.local.batch_size: 0 must be greater than 0"),
    ("partition.clients", 70_000, "partition.clients: 70000 exceeds the 60000 training examples; "),
    ("download.validation", 1.0, "download.validation: 1.0 must be less than 1"),
    ("download.validation", 1e-6, "download.validation: 1e-06 of 60000 training examples is none; take more"),
    ("download.validation", 0.999999, "download.validation: 0.999999 of 60000 training examples is all; take less"),
    ("federated.rounds", "five", 'federated.rounds: "five" is not a whole number'),
    ("federated.rounds", 2.5, "federated.rounds: 2.5 is not a whole number"),
    ("federated.rounds", True, "federated.rounds: true is not a whole number"),
    ("federated.rounds", -1, "federated.rounds: -1 must be greater than 0"),
    ("federated.local.lr", "fast", 'federated.local.lr: "fast" is not a number'),
    ("federated.local.lr", float("nan"), "federated.local.lr: NaN is not a finite number"),
    (
        "federated.local.speed",
        0.9,
        "federated.local.speed: unknown key; known: epochs, batch_size, optimizer, lr, momentum, weight_decay, "
        "clip_norm, lr_decay",
    ),
    (
        "federated.local.momentum",
        0.9,
        "federated.local.momentum: 0.9 is for optimizer sgd; adam has moments of its own",
    ),
    ("federated.local.lr_decay", 1.5, "federated.local.lr_decay: 1.5 must be at most 1"),
    ("federated.min_updates", 5, "federated.min_updates: 5 exceeds clients_per_round = 4"),
    ("federated.dropout", 1.0, "federated.dropout: 1.0 must be less than 1"),
    (
        "federated.sampling",
        "random",
        "federated.sampling: \"random\" is not one of 'uniform', 'size', 'poisson', 'shuffled'",
    ),
    ("federated.target_accuracy", 99, "federated.target_accuracy: 99 must be at most 1"),
    (
        "federated.transforms",
        "clop",
        f'federated.transforms: "clop": must be none, or some of {", ".join(TRANSFORMS)} joined with +',
    ),
    ("federated.transforms", "clip+clip", 'federated.transforms: "clip+clip": names a transform twice'),
    ("federated.clip.norm", 0.0, "federated.clip.norm: 0.0 must be greater than 0"),
    ("federated.aggregation", "medain", "federated.aggregation: \"medain\" is not one of 'mean', 'median', "),
    (
        "federated.aggregation",
        "krum",
        "federated.clients_per_round: 4 is too few for krum to bear so large a fraction of hostile updates; 5 or a "
        "smaller krum.hostile would do",
    ),
    (
        "federated.mixing",
        "nnm",
        "federated.mixing: nnm needs each update by itself, and aggregation mean sees the sum alone; aggregation "
        "median would do",
    ),
    ("federated.q-fedavg.q", -1.0, "federated.q-fedavg.q: -1.0 must be at least 0"),
    ("partition.dirichlet.alpha", 0, "partition.dirichlet.alpha: 0 must be greater than 0"),
    ("partition.holdout", 1.0, "partition.holdout: 1.0 must be less than 1"),
    ("download.dataset", "cifar", "download.dataset: \"cifar\" is not one of 'mnist', 'fashion-mnist', 'kmnist', "),
    (
        "partition.scheme",
        "dirichlt",
        "partition.scheme: \"dirichlt\": is not one of 'iid', 'shards', 'classes', 'dirichlet', ",
    ),
    (
        "partition.scheme",
        "dirichlet+shards",
        "partition.scheme: \"dirichlet+shards\": at most one of 'iid', 'shards', 'classes', 'dirichlet', ",
    ),
    ("federated.round", 3, "federated.round: unknown key; did you mean rounds? known: clients_per_round, "),
    ("federated.strategy", "fedsvd", "federated.strategy: \"fedsvd\" is not one of 'fedavg', 'fedsgd', "),
    ("federated.local", 3, "federated.local: 3 is not a block of keys; known: epochs, batch_size, optimizer, lr, "),
    ("baseline.optimizer", "lion", "baseline.optimizer: \"lion\" is not one of 'adam', 'sgd'"),
    ("model.name", "resnet18", "model.name: \"resnet18\" is not one of 'reference-cnn'"),
    ("partition.scheme", None, "partition.scheme: null is not text"),
    ("download.offline_sample", "no", 'download.offline_sample: "no" is not true or false'),
    ("download.retries", 11, "download.retries: 11 must be at most 10"),
    ("compare.target_accuracy", 98.5, "compare.target_accuracy: 98.5 must be less than 1"),
    ("compute.workers", "all", 'compute.workers: "all": must be auto or a whole number from 1 to 1024'),
    ("compute.workers", 0, "compute.workers: 0: must be auto or a whole number from 1 to 1024"),
    ("compute.engine", "dask", "compute.engine: \"dask\" is not one of 'auto', 'threads', 'processes', 'ray'"),
    ("compute.precision", "float16", "compute.precision: \"float16\" is not one of 'float32', 'bfloat16'"),
    ("partition.examples_per_client", 0, "partition.examples_per_client: 0 must be greater than 0"),
    ("federated.evaluate_every", 0, "federated.evaluate_every: 0 must be greater than 0"),
    ("seed", -3, "seed: -3 must be at least 0"),
]


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has that device")
def test_a_device_that_is_not_there_is_a_mistake(tmp_path: Path):
    """The check says so, before DVC removes what another device made."""
    path = tmp_path / "params.yaml"
    path.write_text(changed("compute.device", "mps"))
    with pytest.raises(UserError, match=r"params\.yaml: compute\.device: torch finds no mps here; use auto or cpu"):
        check(path)


CONTRADICTIONS = [
    (
        {"federated.stragglers": 0.5, "federated.local.epochs": 1},
        "federated.stragglers: 0.5: they train fewer local epochs than the others, and these train 1; "
        "a larger local.epochs, and a strategy other than fedsgd, would do",
    ),
    (
        {"federated.stragglers": 0.5, "federated.strategy": "fedsgd"},
        "federated.stragglers: 0.5: they train fewer local epochs than the others, and these train 1; ",
    ),
    (
        {"partition.scheme": "dirichlet", "partition.dirichlet.alpha": 0.001, "partition.clients": 20},
        "partition.dirichlet: in 100 draws some client always had fewer than min_examples = 10 examples (",
    ),
    (
        {"partition.scheme": "shards", "partition.shards.per_client": 10_000},
        "partition.shards.per_client: 10000 for each of 8 clients exceeds the 60000 training examples",
    ),
    (
        {"partition.scheme": "classes", "partition.classes.per_client": 11},
        "partition.classes.per_client: 11 exceeds the 10 classes",
    ),
    (
        {"federated.strategy": "fedbn"},
        "federated.strategy: fedbn: the model has no batch normalisation; model.name: reference-bn-cnn has",
    ),
    (
        {"federated.strategy": "feddyn", "federated.transforms": "clip"},
        "federated.transforms: clip does not go with strategy feddyn: "
        "its clients and its server must follow the same update",
    ),
]


@pytest.mark.parametrize(("changes", "line"), CONTRADICTIONS)
def test_a_contradiction_between_parameters_is_one_line(changes: dict[str, object], line: str, tmp_path: Path):
    text = PARAMS
    for dotted, value in changes.items():
        text = changed(dotted, value, text)
    message = complaint_about(text, tmp_path)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: {line}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("dotted", "value", "line"), MISTAKES, ids=[f"{dotted}={value}" for dotted, value, _ in MISTAKES]
)
def test_a_mistake_is_one_line(dotted: str, value: object, line: str, tmp_path: Path):
    message = complaint_about(changed(dotted, value), tmp_path)
    assert message.startswith(f"{tmp_path / 'params.yaml'}: {line}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("scheme", "end"),
    [
        ("dirichlt", ", nor of these and 'quantity', 'feature' joined with +"),
        ("quantity+quantity", ", and of 'quantity', 'feature' each once"),
        ("dirichlet+shards", ", and of 'quantity', 'feature' each once"),
    ],
)
def test_the_message_about_an_unknown_scheme_says_what_may_be_joined(scheme: str, end: str, tmp_path: Path):
    assert complaint_about(changed("partition.scheme", scheme), tmp_path).endswith(end)


def test_two_mistakes_are_two_lines(tmp_path: Path):
    text = PARAMS.replace("rounds: 5", "rounds: 0").replace("retries: 2", "retries: -2")
    assert len(complaint_about(text, tmp_path).splitlines()) == 2


def test_two_contradictions_are_two_lines_that_name_the_file(tmp_path: Path):
    text = changed("federated.clients_per_round", 50, changed("partition.scheme", "classes"))
    lines = complaint_about(changed("partition.classes.per_client", 11, text), tmp_path).splitlines()
    assert lines == [
        f"{tmp_path / 'params.yaml'}: federated.clients_per_round: 50 exceeds partition.clients = 8",
        f"{tmp_path / 'params.yaml'}: partition.classes.per_client: 11 exceeds the 10 classes",
    ]


def test_the_library_names_the_parameter_and_who_read_the_file_adds_its_name():
    error = ParameterError("partition.clients", "8 is too many")
    assert str(error) == "partition.clients: 8 is too many"
    line = r"^other/params\.yaml: partition\.clients: 8 is too many$"
    with pytest.raises(UserError, match=line), parameters_from("other/params.yaml"):
        raise error


def test_fedbn_goes_with_a_network_that_has_batch_normalisation(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(changed("model.name", "reference-bn-cnn", changed("federated.strategy", "fedbn")))
    assert check(path).federated.strategy == "fedbn"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: [1, 2\nmodel: x", "not valid YAML at line 2, column "),
        ("seed: 1\nseed: 2\n", "not valid YAML at line 2, column 1: "),
        ("", "the file: null is not a block of keys"),
        ("- 1\n", "the file: [1] is not a block of keys"),
    ],
)
def test_the_message_about_a_file_that_is_no_block_of_keys_says_so(text: str, line: str, tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        check(path)
    assert str(error.value).startswith(f"{path}: {line}")


def test_the_message_about_a_missing_file_says_where_to_run(tmp_path: Path):
    with pytest.raises(UserError, match="not there; run from the folder that holds it"):
        check(tmp_path / "params.yaml")


def test_mean_and_std_are_lists_of_numbers_as_dvc_writes_them(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    apply_overrides(path, ["download.mean=[0.5]", "download.std=[0.25]"])
    download = check(path).download
    assert (download.mean, download.std) == ((0.5,), (0.25,))
    apply_overrides(path, ["download.mean=[true]"])
    with pytest.raises(UserError, match=r"download\.mean\.0: true is not a number"):
        check(path)


def test_the_learning_rate_that_dvc_writes_as_5e_05_is_a_number(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace("lr: 0.001", "lr: 5e-05"))
    assert check(path).federated.local.lr == 5e-5


def test_the_command_prints_the_line_and_exits_with_1(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(changed("federated.clients_per_round", 50))
    done = subprocess.run([sys.executable, "-m", "fedpipe.cli", "check", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"{path}: federated.clients_per_round: 50 exceeds partition.clients = 8\n"
