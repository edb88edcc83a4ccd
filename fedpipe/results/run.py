"""A run of the pipeline, as its files tell of it: all that a page about it shows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from ruamel.yaml import YAML, YAMLError

from fedpipe.config.file import flat
from fedpipe.results.comparison import CENTRALISED, FEDERATED, LOCAL
from fedpipe.results.source import Source, json_of, table_of
from fedpipe.system.errors import UserError
from fedpipe.system.provenance import FILE as PROVENANCE
from fedpipe.system.provenance import identity

INPUTS = "data/inputs/report.json"  # the parameters that count, which the check writes
AUDIT = "reports/audit.json"  # what `fedpipe audit --save` writes
STAGES = {FEDERATED: "federated", CENTRALISED: "baseline", LOCAL: "local"}  # that the methods are of
CLIENTS = ("cohort", "dropped", "lost", "refused", "hostile")  # the columns of rounds.csv that list clients


@dataclass(frozen=True)
class Repeats:
    """Hold what a method came to over runs that differ in their seed alone, this one included."""

    seeds: int
    mean: float
    low: float | None  # of the 95 % interval of the mean; None of too few seeds
    high: float | None


@dataclass(frozen=True)
class Run:
    """Hold what the files of a run say."""

    name: str  # what people call it: the workspace, or a revision
    figures: Mapping[str, Any]  # comparison.json: of the comparison, the partition, and each method
    is_sample: bool  # whether a sample of the data set stood in for it
    rounds: pd.DataFrame  # federated/rounds.csv
    epochs: pd.DataFrame  # baseline/epochs.csv
    curves: pd.DataFrame  # learning_curves.csv
    confusion: pd.DataFrame  # of both methods that have one
    classes: pd.DataFrame  # class_accuracy.csv
    labels: pd.DataFrame  # label_counts.csv
    clients: pd.DataFrame  # clients.csv
    gains: pd.DataFrame  # gains.csv
    parameters: Mapping[str, Any]  # those that count for results, by dotted path
    defaults: Mapping[str, Any]  # of all parameters, likewise
    provenance: Mapping[str, Mapping[str, Any]]  # by stage
    data: Mapping[str, Any]  # dataset.json; nothing where the data set is not there
    lock: Mapping[str, Any]  # the stages of dvc.lock
    audit: Mapping[str, Any]  # of privacy; nothing where none was made with these parameters
    repeats: Mapping[str, Repeats] = field(default_factory=dict)  # by method, if there are runs with other seeds

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.figures[FEDERATED]["dataset"])

    @property
    def seeds(self) -> int:
        """With how many seeds it was done, this one included."""
        return max((of_method.seeds for of_method in self.repeats.values()), default=1)

    @property
    def diverged(self) -> list[str]:
        """The methods whose training diverged; of clients alone, if any of them did."""
        return [method for method in STAGES if self.figures[method]["diverged"]]

    @property
    def evaluated_on(self) -> str:
        """What rounds were evaluated on: test or validation data."""
        return str(self.figures["comparison"]["evaluated_on"])

    @property
    def test_examples(self) -> int:
        """The number of test images."""
        return sum(self.confusion.loc[self.confusion["method"] == FEDERATED, "examples"])

    @property
    def population(self) -> int:
        """The number of clients."""
        return int(self.figures["partition"]["clients"])

    @property
    def is_private(self) -> bool:
        """Whether clients were promised privacy."""
        return "epsilon" in self.figures[FEDERATED]

    @property
    def is_attacked(self) -> bool:
        """Whether some clients were hostile."""
        return "hostile" in self.rounds

    @cached_property
    def drawn(self) -> set[str]:
        """The clients that were in a cohort; none is known where clients were promised privacy."""
        return {client for cohort in self.rounds["cohort"] for client in cohort.split()}

    def counted(self, what: str) -> pd.Series:
        """Return how many clients each round lists in a column of CLIENTS."""
        if what not in self.rounds:
            return pd.Series(0, index=self.rounds.index)
        return pd.Series([len(clients.split()) for clients in self.rounds[what]], index=self.rounds.index)

    def accuracy(self, method: str) -> float:
        """Return the test accuracy of a method; of clients alone the mean."""
        return _number(self.figures[method]["accuracy"])

    def loss(self, method: str) -> float:
        """Return the test loss of a method; of clients alone the mean."""
        return _number(self.figures[method]["loss"])

    def made(self, stage: str) -> Mapping[str, Any]:
        """Return what is known of where and when a stage made its results; nothing if it is of other results."""
        known = self.provenance.get(stage, {})
        return known if known.get("results") in (None, self._results[stage]) else {}

    @property
    def _results(self) -> dict[str, str | None]:
        """What dvc.lock says of the files of hashes that the trainings wrote."""
        return {stage: output(self.lock, stage, f"reports/{stage}/SHA256SUMS") for stage in STAGES.values()}


def read_run(source: Source) -> Run:
    """Return a run whose files lie in the workspace or in a revision of git.

    Raises:
        UserError: a file lacks, or is not what a run writes.
    """
    figures = json_of(source, "reports/comparison.json")
    if figures is None:
        raise UserError(f"reports/comparison.json: not there ({source.name}); `dvc repro` makes it")
    inputs = json_of(source, INPUTS) or _older_inputs(source)
    lock = lock_of(source)
    audit = json_of(source, AUDIT, {})
    confusions = [table_of(source, f"reports/{stage}/confusion.csv") for stage in ("federated", "baseline")]
    return Run(
        name=source.name,
        figures=figures,
        is_sample=bool(json_of(source, "reports/federated/metrics.json", {}).get("sample")),
        rounds=table_of(source, "reports/federated/rounds.csv", text=CLIENTS),
        epochs=table_of(source, "reports/baseline/epochs.csv"),
        curves=table_of(source, "reports/learning_curves.csv"),
        confusion=pd.concat(confusions, ignore_index=True),
        classes=table_of(source, "reports/class_accuracy.csv"),
        labels=table_of(source, "reports/label_counts.csv"),
        clients=table_of(source, "reports/clients.csv"),
        gains=table_of(source, "reports/gains.csv"),
        parameters=inputs["parameters"],
        defaults=inputs["defaults"],
        provenance=json_of(source, PROVENANCE.as_posix(), {}),
        data=json_of(source, "data/dataset/dataset.json", {}),
        lock=lock,
        audit=audit if audit.get("of") == input_of(source, "federated") else {},
    )


def _older_inputs(source: Source) -> dict[str, dict[str, Any]]:
    """Return the parameters of a run of an older version, which wrote down those of each stage alone."""
    found: dict[str, Any] = {}
    for stage in ("download", "partition", *STAGES.values(), "compare"):
        found |= flat(json_of(source, f"data/inputs/{stage}.json", {}).get("parameters", {}))
    return {"parameters": found, "defaults": {}}


def input_of(source: Source, stage: str) -> str | None:
    """Return the MD5 of what the check wrote for a stage, as dvc.lock has it; None if it wrote nothing."""
    content = source.bytes_of(f"data/inputs/{stage}.json")
    return None if content is None else identity(content)


def lock_of(source: Source) -> dict[str, Any]:
    """Return the stages of dvc.lock; none if there is no such file, or it is damaged."""
    content = source.bytes_of("dvc.lock")
    try:
        lock = YAML(typ="safe", pure=True).load(content.decode()) if content else None
    except YAMLError:
        return {}
    return dict(lock.get("stages", {})) if isinstance(lock, dict) else {}


def output(lock: Mapping[str, Any], stage: str, path: str) -> str | None:
    """Return the MD5 of an output of a stage, by dvc.lock; None if it has none."""
    outputs = lock.get(stage, {}).get("outs", [])
    return next((out.get("md5") for out in outputs if out.get("path") == path), None)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
