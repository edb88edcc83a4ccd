"""Train the same model on the whole training set: the centralised baseline."""

from pathlib import Path

from fedpipe import baseline
from fedpipe.config.file import read, run_stage
from fedpipe.data import datasets
from fedpipe.system import console, files
from fedpipe.system.provenance import provenance
from fedpipe.training.evaluation import confusion_rows

MNIST = Path("data/mnist")
MODEL = Path("models/baseline.safetensors")
REPORTS = Path("reports/baseline")


def main() -> None:
    experiment = read(baseline.CentralisedExperiment, only_its_fields=True)
    dataset = datasets.describe(MNIST / "dataset.json")
    train, test = (datasets.load(MNIST / f"{name}.safetensors") for name in ("train", "test"))

    parameters, epochs = None, []
    with console.progress("epochs", experiment.baseline.epochs) as bar:
        training = baseline.run_epochs(experiment, dataset.classes, train, test)
        for parameters, epoch in training:  # noqa: B007 - the last parameters are used below
            epochs.append(epoch)
            bar.advance()
            bar.report(f"epoch {epoch.number}", epoch.test, len(train))
    assert parameters is not None, "there is at least one epoch"

    final = epochs[-1].test
    rows = [epoch.row() | {"examples_processed": epoch.number * len(train)} for epoch in epochs]
    metrics = {
        "dataset": dataset.name,
        "accuracy": final.accuracy,
        "loss": final.loss,
        "epochs": len(epochs),
        "examples_processed": len(epochs) * len(train),
    }
    machine = provenance(experiment.compute.torch_device())
    confusion = confusion_rows(test.labels, final.predictions, dataset.classes)
    files.write_tensors(MODEL, parameters)
    files.write_table(REPORTS / "epochs.csv", rows, dataset=dataset.name)
    files.write_table(REPORTS / "confusion.csv", confusion, dataset=dataset.name, method="centralised")
    files.write_json(REPORTS / "metrics.json", {"baseline": metrics | machine})


if __name__ == "__main__":
    run_stage(main)
