"""Both results side by side: metrics, a table, and figures."""

from pathlib import Path

import pandas as pd

from fedpipe import console, figures, files, params, report

REPORTS = Path("reports")
MANIFEST = Path("data/shards/manifest.csv")


def main() -> None:
    settings = params.read(report.Compare, at="compare")
    dataset = report.one_dataset(REPORTS / "federated/metrics.json", REPORTS / "baseline/metrics.json")
    rounds = pd.read_csv(REPORTS / "federated/rounds.csv")
    epochs = pd.read_csv(REPORTS / "baseline/epochs.csv")
    confusion = pd.concat(pd.read_csv(REPORTS / method / "confusion.csv") for method in ("federated", "baseline"))

    curves = report.learning_curves(rounds, epochs)
    classes = report.class_accuracies(confusion)
    manifest = pd.read_csv(MANIFEST)
    labels = report.label_counts(manifest, dataset)
    shown, clients = len(labels["client"].unique()), len(manifest)
    some = f" ({shown} of {clients:,} clients)" if shown < clients else ""
    table = report.comparison(curves, settings)

    files.write_json(REPORTS / "comparison.json", report.as_metrics(table))
    files.write_text(REPORTS / "comparison.md", report.as_markdown(table, settings))
    for name, frame in {
        "comparison": table,
        "learning_curves": curves,
        "class_accuracy": classes,
        "label_counts": labels,
    }.items():
        files.write_text(REPORTS / f"{name}.csv", frame.to_csv(index=False))

    for name, title, frame in (
        ("learning_curves", "Test accuracy over what it cost", curves),
        ("confusion_counts", "Test images by actual and predicted label", confusion),
        ("class_accuracy", "Test accuracy by label", classes),
        ("label_counts", f"Training examples by client and label{some}", labels),
    ):
        figures.draw(name, title, frame, REPORTS / "figures" / f"{name}.png")
    figures.write_plots_page(REPORTS / "plots-page.html")
    console.say((REPORTS / "comparison.md").read_text())


if __name__ == "__main__":
    console.run(main)
