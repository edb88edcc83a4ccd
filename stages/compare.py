"""Put federated, centralised and local results side by side: metrics, tables and pictures."""

from pathlib import Path

import pandas as pd

from fedpipe.config.file import read, run_stage
from fedpipe.results import comparison, figures, gains
from fedpipe.results.comparison import Compare
from fedpipe.system import console, files
from fedpipe.system.provenance import recall

REPORTS = Path("reports")
SHARDS = Path("data/shards")
TRAININGS = {  # the methods' stages
    comparison.FEDERATED: "federated",
    comparison.CENTRALISED: "baseline",
    comparison.LOCAL: "local",
}


def main() -> None:
    settings = read(Compare, at="compare")
    recall({stage: REPORTS / stage / files.SUMS for stage in TRAININGS.values()})
    trainings = {
        method: comparison.read_figures(REPORTS / stage / "figures.json", stage) for method, stage in TRAININGS.items()
    }
    dataset = comparison.one_dataset(trainings)
    evaluated = "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"
    columns = "dataset", *evaluated, "examples_processed"
    rounds = comparison.read_table(REPORTS / "federated/rounds.csv", "federated", "round", *columns)
    epochs = comparison.read_table(REPORTS / "baseline/epochs.csv", "baseline", "epoch", *columns)
    columns = "dataset", "method", "actual", "predicted", "examples"
    confusion = pd.concat(
        comparison.read_table(REPORTS / stage / "confusion.csv", stage, *columns) for stage in ("federated", "baseline")
    )
    manifest = comparison.read_table(SHARDS / "manifest.csv", "partition", "client", "examples", "held_out", "label_0")
    holdout = comparison.read_table(REPORTS / "federated/holdout.csv", "federated", "client", "accuracy")
    columns = "dataset", "client", *(f"{measure}_accuracy" for measure in gains.MEASURES)
    alone = comparison.read_table(REPORTS / "local/clients.csv", "local", *columns)
    local = trainings[comparison.LOCAL]

    curves = comparison.learning_curves(rounds, epochs, local)
    classes = comparison.class_accuracies(confusion)
    labels = comparison.label_counts(manifest, dataset)
    diverged = [method for method, of_method in trainings.items() if of_method["diverged"]]
    table = comparison.compare(curves, settings, diverged)
    clients = gains.clients(manifest, classes, trainings[comparison.FEDERATED]["accuracy"], holdout, alone)
    spreads = gains.gains(clients)

    together = comparison.figures(table) | gains.figures(clients)
    of_partition = gains.of_partition(manifest)
    files.write_json(REPORTS / "metrics.json", comparison.headline(together, diverged))
    files.write_json(REPORTS / "comparison.json", {"comparison": together, "partition": of_partition, **trainings})
    text = f"{comparison.as_markdown(table, settings, local)}\n{gains.as_markdown(spreads, len(manifest))}"
    files.write_text(REPORTS / "comparison.md", text)
    for name, frame in {
        "comparison": table,
        "learning_curves": curves,
        "class_accuracy": classes,
        "label_counts": labels,
        "clients": clients,
        "gains": spreads,
    }.items():
        files.write_text(REPORTS / f"{name}.csv", frame.to_csv(index=False))

    shown, population = len(labels["client"].unique()), len(manifest)
    compared = clients.dropna(subset="gain")  # of a large population a few, which the picture shows
    excerpt = f" ({shown} of {population:,} clients)" if shown < population else ""
    for name, title, frame, lines in (
        ("learning_curves", "Accuracy over what it cost", curves, "method"),
        ("confusion_counts", "Test images by actual and predicted label", confusion, None),
        ("class_accuracy", "Test accuracy by label", classes, "method"),
        ("label_counts", f"Training examples by client and label{excerpt}", labels, None),
        ("clients", "Each client's accuracy on data like its own: federated, and alone", compared, None),
    ):
        figures.draw(name, title, frame, REPORTS / "figures" / f"{name}.png", lines=lines)
    console.say((REPORTS / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_stage(main)
