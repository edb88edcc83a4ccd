"""Tables that compare federated training with others, made from the reports of all, without model or data."""

import json
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from fedpipe.config.section import Section
from fedpipe.system.errors import UserError
from fedpipe.system.files import read_summed, reading

CLIENTS_SHOWN = 100  # evenly spaced in a larger population: more would make neither table nor picture clearer

FEDERATED, CENTRALISED, LOCAL = "federated", "centralised", "local"  # the methods, as reports name them
STEP = {FEDERATED: "round", CENTRALISED: "epoch"}


class Compare(Section):
    """Hold the parameters of the comparison."""

    target_accuracy: float = Field(
        default=0.985,
        gt=0,
        lt=1,
        description="The accuracy to count rounds and epochs to, on validation data (download.validation) or, where "
        "there are none, on the test set. 0.985 is the reference's published result.",
    )


def learning_curves(rounds: pd.DataFrame, epochs: pd.DataFrame, local: Mapping[str, Any]) -> pd.DataFrame:
    """Return the learning curves of all methods, as one table over the training examples that they cost.

    Args:
        rounds: federated/rounds.csv.
        epochs: baseline/epochs.csv.
        local: the figures in local/figures.json.

    Returns:
        A row for each evaluated step, which is a round or an epoch: dataset, method, step, examples_processed,
        evaluated_on (``validation`` data where there are any, else ``test``), loss, accuracy (on these), and test_loss,
        test_accuracy, which with validation data are those of the last step alone. Clients alone have one row, for they
        are evaluated in the end, on the test set: their mean, and all that they processed, without a step.
    """
    alone = {
        "dataset": local["dataset"],
        "method": LOCAL,
        "examples_processed": local["examples_processed"],
        "evaluated_on": "test",
        "loss": local["loss"],
        "accuracy": local["accuracy"],
        "test_loss": local["loss"],
        "test_accuracy": local["accuracy"],
    }
    curves = pd.concat(
        [
            _evaluated(rounds.rename(columns={"round": "step"}).assign(method=FEDERATED)),
            _evaluated(epochs.rename(columns={"epoch": "step"}).assign(method=CENTRALISED)),
            pd.DataFrame([alone]),
        ]
    ).astype({"step": "Int64"})
    columns = ["dataset", "method", "step", "examples_processed", "evaluated_on", "loss", "accuracy"]
    # Accuracies are empty between evaluations.
    return curves.loc[:, [*columns, "test_loss", "test_accuracy"]].dropna(subset="accuracy")


def _evaluated(steps: pd.DataFrame) -> pd.DataFrame:
    """Add to the rounds or epochs of a training what it was evaluated on, and with which loss and accuracy."""
    on = "validation" if len(steps["validation_accuracy"].dropna()) else "test"
    return steps.assign(evaluated_on=on, loss=steps[f"{on}_loss"], accuracy=steps[f"{on}_accuracy"])


def class_accuracies(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the test accuracy of each method on each class.

    Args:
        confusion: the confusion.csv of methods, one below the other.

    Returns:
        A row for each method and class: dataset, method, label, examples (of this class), accuracy (on them).
    """
    keys = ["dataset", "method", "actual"]
    examples = confusion.groupby(keys, sort=False)["examples"].sum()
    right = confusion[confusion["actual"] == confusion["predicted"]].set_index(keys)["examples"]
    table = pd.DataFrame({"examples": examples, "accuracy": right / examples}).reset_index()
    return table.rename(columns={"actual": "label"})


def label_counts(manifest: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return how many training examples of each label each client has.

    Args:
        manifest: manifest.csv of the client shards, with a column for each label.
        dataset: the name of the data set.

    Returns:
        A row for each client and label: dataset, client, label, examples. Of more than CLIENTS_SHOWN clients, only
        that many, evenly spaced.
    """
    if len(manifest) > CLIENTS_SHOWN:
        manifest = manifest.iloc[np.linspace(0, len(manifest) - 1, CLIENTS_SHOWN).round().astype(int)]
    labels = [column for column in manifest if str(column).startswith("label_")]
    table = manifest[["client", *labels]].melt("client", labels, "label", "examples").sort_values(["client", "label"])
    table["label"] = table["label"].str.removeprefix("label_").astype(int)
    return table.assign(dataset=dataset).loc[:, ["dataset", "client", "label", "examples"]]


def compare(curves: pd.DataFrame, settings: Compare, diverged: Collection[str] = ()) -> pd.DataFrame:
    """Return a row for each method: its last result, what it cost, and when it reached the target accuracy.

    Args:
        curves: the table of `learning_curves`.
        settings: names the target accuracy.
        diverged: the methods whose training diverged.
    """
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
                "evaluated_on": last["evaluated_on"],
                "steps": last["step"],
                "steps_to_target": steps_to(settings.target_accuracy, curve),
                "diverged": method in diverged,
            }
        )
    return pd.DataFrame(rows).astype({"steps": "Int64", "steps_to_target": "Int64"})


def steps_to(target: float, curve: pd.DataFrame) -> int | None:
    """Return the first evaluated round or epoch (1, 2, ...) that reaches the accuracy, or None if none does."""
    reached = curve.loc[curve["accuracy"] >= target, "step"].dropna()
    return None if reached.empty else int(reached.iloc[0])


def gap_points(table: pd.DataFrame) -> float | None:
    """Return federated minus centralised test accuracy, in percentage points; None if either training diverged."""
    if any(table.loc[table["method"] != LOCAL, "diverged"]):
        return None
    accuracy = dict(zip(table["method"], table["test_accuracy"], strict=True))
    return round(100 * (accuracy[FEDERATED] - accuracy[CENTRALISED]), 4)


def figures(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table of `compare` as figures."""
    rows = table.set_index("method").astype(object)
    federated, centralised = rows.loc[FEDERATED], rows.loc[CENTRALISED]
    return {
        "gap_points": gap_points(table),
        "evaluated_on": federated["evaluated_on"],
        "rounds_to_target": _or_none(federated["steps_to_target"]),
        "epochs_to_target": _or_none(centralised["steps_to_target"]),
    }


def headline(figures: Mapping[str, Any], diverged: Collection[str] = ()) -> dict[str, Any]:
    """Return the few figures that `dvc metrics` shows of the comparison.

    Gap and gain have no value where a training that they are of diverged.

    Args:
        figures: of `figures` and of `fedpipe.results.gains.figures`.
        diverged: the methods whose training diverged.

    Returns:
        gap: federated less centralised test accuracy, in points. gain: the mean over clients of the accuracy of the
        federated model less that of their own, in points. to_target: rounds to the target accuracy.
    """
    return {
        "gap": figures["gap_points"],
        "gain": None if FEDERATED in diverged else figures["mean_gain_points"],
        "to_target": figures["rounds_to_target"],
    }


def as_markdown(table: pd.DataFrame, settings: Compare, local: Mapping[str, Any]) -> str:
    """Return the table of `compare` as Markdown for people to read.

    Args:
        table: of `compare`.
        settings: names the target accuracy.
        local: the figures in local/figures.json.
    """
    alone = f"local, mean of {_counted(local['clients'], 'client')}"
    lines = [
        f"# {table['dataset'].iloc[0]}: federated, centralised, local",
        "",
        f"| | test accuracy | test loss | trained for | examples processed | to {settings.target_accuracy:.1%} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        method, to_target = row["method"], "not known"
        if method == LOCAL:
            trained_for = _counted(local["epochs"], "epoch")
            name = f"{alone}, {local['clients_diverged']} diverged" if row["diverged"] else alone
        else:
            step, steps_to_target = STEP[method], row["steps_to_target"]
            to_target = "not reached" if pd.isna(steps_to_target) else _counted(steps_to_target, step)
            trained_for = _counted(row["steps"], step)
            name = f"{method}, diverged" if row["diverged"] else method
        lines.append(
            f"| {name} | {row['test_accuracy']:.2%} | {_loss(row['test_loss'])} | {trained_for} "
            f"| {row['examples_processed']:,} | {to_target} |"
        )
    gap = gap_points(table)
    if gap is None:
        names = " and ".join(table.loc[table["diverged"] & (table["method"] != LOCAL), "method"])
        conclusion = f"The {names} training diverged, so that there is nothing to compare."
    else:
        conclusion = f"Federated less centralised: {gap:+.2f} points of test accuracy."
    target = f"{settings.target_accuracy:.1%}"
    decided = (
        f"Rounds and epochs to {target} are counted on validation data, which also decide about stopping\n"
        "early; the test set was used once, for the last models."
        if "validation" in set(table["evaluated_on"])
        else f"Rounds and epochs to {target} are counted on the test set, which also decides about stopping early."
    )
    lines += ["", conclusion, "", decided, ""]
    return "\n".join(lines)


def read_figures(path: Path, stage: str) -> dict[str, Any]:
    """Return the figures of a training, as its stage wrote them.

    Args:
        path: a JSON file.
        stage: that writes it.

    Raises:
        UserError: the file is missing, or is not what was written.
    """
    text = read_summed(path, stage)
    with reading(path, stage):
        figures = dict(json.loads(text))
        if missing := [key for key in ("dataset", "diverged") if key not in figures]:
            raise ValueError(f"no {missing[0]}")
        return figures


def read_table(path: Path, stage: str, *columns: str) -> pd.DataFrame:
    """Return a table that a stage wrote.

    Args:
        path: a CSV file.
        stage: that writes it.
        columns: which it must have.

    Raises:
        UserError: the file is missing, or is not what was written.
    """
    text = read_summed(path, stage)
    with reading(path, stage):
        table = pd.read_csv(StringIO(text))
        if missing := [column for column in columns if column not in table]:
            raise ValueError(f"no column {missing[0]}")
        if table.empty:
            raise ValueError("no rows")
        return table


def one_dataset(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of the data set that all these figures are about.

    Args:
        figures: of each method.

    Raises:
        UserError: they name different data sets, so that a comparison would mislead.
    """
    names = {str(of_method["dataset"]) for of_method in figures.values()}
    if len(names) > 1:
        methods = " and ".join(figures)
        raise UserError(f"{methods}: on different data sets: {', '.join(sorted(names))}; `dvc repro` trains all anew")
    return names.pop()


def _counted(number: float, unit: str) -> str:
    shown = f"{int(number):,}" if number == int(number) else f"{number:.4g}"
    return f"{shown} {unit}" if number == 1 else f"{shown} {unit}s"


def _loss(value: float) -> str:
    return "no number" if pd.isna(value) else f"{value:.4f}" if value < 1000 else f"{value:.3g}"


def _or_none(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
