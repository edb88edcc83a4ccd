"""The centralised baseline: the same model on the whole training set."""

from pathlib import Path

from fedpipe import baseline, console, datasets, files, params
from fedpipe.arithmetic import Arithmetic
from fedpipe.evaluation import confusion_rows
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.provenance import provenance

MNIST = Path("data/mnist")
MODEL = Path("models/baseline.safetensors")
REPORTS = Path("reports/baseline")


def main() -> None:
    settings = params.read(baseline.Baseline, at="baseline")
    arithmetic = params.read(Arithmetic, at="compute")
    seed = params.read_seed()
    dataset = datasets.describe(MNIST / "dataset.json")
    model = params.read(ModelChoice, at="model").model.for_classes(dataset.classes)
    train = datasets.load(MNIST / "train.safetensors")
    test = datasets.load(MNIST / "test.safetensors")

    parameters = initial_parameters(model, seed)  # those that federated training starts from too
    epochs: list[baseline.Epoch] = []
    with console.progress("epochs", settings.epochs) as bar:
        training = baseline.run(parameters, settings, model, seed, train, test, arithmetic)
        for parameters, epoch in training:  # noqa: B007 - the last parameters are used below
            epochs.append(epoch)
            bar.advance()
            bar.report(f"epoch {epoch.number}", epoch.test, len(train))

    final = epochs[-1].test
    rows = [epoch.row() | {"examples_processed": epoch.number * len(train)} for epoch in epochs]
    metrics = {
        "dataset": dataset.name,
        "accuracy": final.accuracy,
        "loss": final.loss,
        "epochs": len(epochs),
        "examples_processed": len(epochs) * len(train),
    }
    confusion = confusion_rows(test.labels, final.predictions, dataset.classes)
    files.write_tensors(MODEL, parameters)
    files.write_table(REPORTS / "epochs.csv", rows, dataset=dataset.name)
    files.write_table(REPORTS / "confusion.csv", confusion, dataset=dataset.name, method="centralised")
    files.write_json(REPORTS / "metrics.json", {"baseline": metrics | provenance(arithmetic.torch_device())})


if __name__ == "__main__":
    console.run(main)
