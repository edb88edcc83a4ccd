"""Put federated and centralised results side by side: metrics, tables and pictures."""

from pathlib import Path

import pandas as pd

from fedpipe.config.file import read, run_stage
from fedpipe.results import comparison, figures
from fedpipe.results.comparison import Compare
from fedpipe.system import console, files

REPORTS = Path("reports")
SHARDS = Path("data/shards")
TRAININGS = {comparison.FEDERATED: "federated", comparison.CENTRALISED: "baseline"}  # the methods' stages


def main() -> None:
    settings = read(Compare, at="compare")
    metrics = {
        method: comparison.read_metrics(REPORTS / stage / "metrics.json", stage) for method, stage in TRAININGS.items()
    }
    dataset = comparison.one_dataset(metrics)
    evaluated = "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"
    columns = "dataset", *evaluated, "examples_processed"
    rounds = comparison.read_table(REPORTS / "federated/rounds.csv", "federated", "round", *columns)
    epochs = comparison.read_table(REPORTS / "baseline/epochs.csv", "baseline", "epoch", *columns)
    columns = "dataset", "method", "actual", "predicted", "examples"
    confusion = pd.concat(
        comparison.read_table(REPORTS / stage / "confusion.csv", stage, *columns) for stage in TRAININGS.values()
    )
    manifest = comparison.read_table(SHARDS / "manifest.csv", "partition", "client", "label_0")

    curves = comparison.learning_curves(rounds, epochs)
    classes = comparison.class_accuracies(confusion)
    labels = comparison.label_counts(manifest, dataset)
    diverged = [method for method, of_method in metrics.items() if of_method["diverged"]]
    table = comparison.compare(curves, settings, diverged)

    files.write_json(REPORTS / "comparison.json", comparison.as_metrics(table))
    files.write_text(REPORTS / "comparison.md", comparison.as_markdown(table, settings))
    for name, frame in {
        "comparison": table,
        "learning_curves": curves,
        "class_accuracy": classes,
        "label_counts": labels,
    }.items():
        files.write_text(REPORTS / f"{name}.csv", frame.to_csv(index=False))

    shown, clients = len(labels["client"].unique()), len(manifest)
    excerpt = f" ({shown} of {clients:,} clients)" if shown < clients else ""
    for name, title, frame in (
        ("learning_curves", "Accuracy over what it cost", curves),
        ("confusion_counts", "Test images by actual and predicted label", confusion),
        ("class_accuracy", "Test accuracy by label", classes),
        ("label_counts", f"Training examples by client and label{excerpt}", labels),
    ):
        figures.draw(name, title, frame, REPORTS / "figures" / f"{name}.png")
    console.say((REPORTS / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_stage(main)
