"""The comparison: from the reports of both trainings alone, no model and no data."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from fedpipe.errors import UserError
from fedpipe.files import read_json
from fedpipe.params import Section

CLIENTS_SHOWN = 100  # evenly spaced in a larger population: more would make neither table nor picture clearer

FEDERATED, CENTRALISED = "federated", "centralised"  # the methods, as reports name them


class Compare(Section):
    """The comparison's own knobs."""

    target_accuracy: float = Field(default=0.985, gt=0, lt=1)


def learning_curves(rounds: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Both curves over what they cost: dataset, method, step (round or epoch), examples_processed, test_accuracy."""
    curves = pd.concat(
        [
            rounds.rename(columns={"round": "step"}).assign(method=FEDERATED),
            epochs.rename(columns={"epoch": "step"}).assign(method=CENTRALISED),
        ]
    )
    columns = ["dataset", "method", "step", "examples_processed", "test_loss", "test_accuracy"]
    return curves.loc[:, columns].dropna(subset="test_accuracy")  # rounds between evaluations


def class_accuracies(confusion: pd.DataFrame) -> pd.DataFrame:
    """dataset, method, label, examples, accuracy: of the test examples of each class, how many were recognised."""
    keys = ["dataset", "method", "actual"]
    examples = confusion.groupby(keys, sort=False)["examples"].sum()
    right = confusion[confusion["actual"] == confusion["predicted"]].set_index(keys)["examples"]
    table = pd.DataFrame({"examples": examples, "accuracy": right / examples}).reset_index()
    return table.rename(columns={"actual": "label"})


def label_counts(manifest: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """dataset, client, label, examples: the shards' manifest in long form, of at most CLIENTS_SHOWN clients."""
    if len(manifest) > CLIENTS_SHOWN:
        manifest = manifest.iloc[np.linspace(0, len(manifest) - 1, CLIENTS_SHOWN).round().astype(int)]
    labels = [column for column in manifest if str(column).startswith("label_")]
    table = manifest[["client", *labels]].melt("client", labels, "label", "examples").sort_values(["client", "label"])
    table["label"] = table["label"].str.removeprefix("label_").astype(int)
    return table.assign(dataset=dataset).loc[:, ["dataset", "client", "label", "examples"]]


def steps_to(target: float, curve: pd.DataFrame) -> int | None:
    """The first evaluated round or epoch (1, 2, ...) whose accuracy reaches the target; None if none does."""
    reached = curve.loc[curve["test_accuracy"] >= target, "step"]
    return None if reached.empty else int(reached.iloc[0])


def comparison(curves: pd.DataFrame, settings: Compare) -> pd.DataFrame:
    """A row a method: its last result, what it cost, and when it reached the target."""
    rows = []
    for method, curve in curves.groupby("method", sort=False):
        last = curve.iloc[-1]
        rows.append(
            {
                "dataset": last["dataset"],
                "method": method,
                "test_accuracy": last["test_accuracy"],
                "test_loss": last["test_loss"],
                "examples_processed": last["examples_processed"],
                "steps": last["step"],
                "steps_to_target": steps_to(settings.target_accuracy, curve),
            }
        )
    return pd.DataFrame(rows).astype({"steps_to_target": "Int64"})


def as_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """The comparison with a dotted key a figure, as `dvc metrics` reads it."""
    rows = table.set_index("method").astype(object)
    federated, centralised = rows.loc[FEDERATED], rows.loc[CENTRALISED]
    return {
        "comparison": {
            "dataset": federated["dataset"],
            "federated_accuracy": federated["test_accuracy"],
            "centralised_accuracy": centralised["test_accuracy"],
            "gap_points": gap_points(table),
            "federated_loss": federated["test_loss"],
            "centralised_loss": centralised["test_loss"],
            "federated_examples": federated["examples_processed"],
            "centralised_examples": centralised["examples_processed"],
            "rounds_to_target": _or_none(federated["steps_to_target"]),
            "epochs_to_target": _or_none(centralised["steps_to_target"]),
        }
    }


def gap_points(table: pd.DataFrame) -> float:
    """Federated less centralised test accuracy, in percentage points."""
    accuracy = dict(zip(table["method"], table["test_accuracy"], strict=True))
    return round(100 * (accuracy[FEDERATED] - accuracy[CENTRALISED]), 4)


def as_markdown(table: pd.DataFrame, settings: Compare) -> str:
    """The comparison for people."""
    units = {FEDERATED: "rounds", CENTRALISED: "epochs"}
    lines = [
        f"# {table['dataset'].iloc[0]}: federated beside centralised",
        "",
        f"| | test accuracy | test loss | trained for | examples processed | to {settings.target_accuracy:.1%} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        unit = units[row["method"]]
        to_target = "not reached" if pd.isna(row["steps_to_target"]) else f"{row['steps_to_target']} {unit}"
        lines.append(
            f"| {row['method']} | {row['test_accuracy']:.2%} | {row['test_loss']:.4f} | {row['steps']} {unit} "
            f"| {row['examples_processed']:,} | {to_target} |"
        )
    lines += ["", f"Federated less centralised: {gap_points(table):+.2f} points of test accuracy.", ""]
    return "\n".join(lines)


def one_dataset(*reports: Path) -> str:
    """The data set that all metrics files name.

    Raises:
        UserError: they are of different data sets, so that comparing them would mislead.
    """
    names = {next(iter(read_json(report).values()))["dataset"] for report in reports}
    if len(names) > 1:
        raise UserError(f"{' and '.join(map(str, reports))}: of different data sets: {', '.join(sorted(names))}")
    return names.pop()


def _or_none(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
