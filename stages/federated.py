"""Federated training on the client shards, evaluated on the test set each round."""

from itertools import accumulate
from pathlib import Path

from fedpipe import console, datasets, federated, files, params, shards
from fedpipe.engines import Compute
from fedpipe.evaluation import confusion_rows
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.provenance import provenance
from fedpipe.strategies import ServerState

MNIST = Path("data/mnist")
SHARDS = Path("data/shards")
MODEL = Path("models/federated.safetensors")
REPORTS = Path("reports/federated")


def main() -> None:
    settings = params.read(federated.Federated, at="federated")
    model = params.read(ModelChoice, at="model").model
    seed = params.read_seed()
    dataset = datasets.name_of(MNIST / "dataset.json")
    test = datasets.load(MNIST / "test.safetensors")

    population = shards.locate(SHARDS)
    compute = params.read(Compute, at="compute")
    work = federated.Work(settings, model, seed, (MNIST / "test.safetensors").resolve(), compute)
    state = ServerState(0, initial_parameters(model, seed))
    rounds: list[federated.Round] = []
    total = settings.rounds * settings.clients_per_round
    with compute.start(work) as map, console.progress("client updates", total) as bar:
        training = federated.run(state, settings, seed, population, len(test), map, on_client=lambda _: bar.advance())
        for state, round in training:  # noqa: B007 - the last state is used below
            rounds.append(round)
            bar.report(f"round {round.number}", round.test, round.examples * settings.local.epochs)

    processed = list(accumulate(round.examples * settings.local.epochs for round in rounds))
    rows = [round.row() | {"examples_processed": n} for round, n in zip(rounds, processed, strict=True)]
    final = rounds[-1].test
    assert final is not None, "the last round is evaluated, whatever evaluate_every"
    metrics = {
        "dataset": dataset,
        "accuracy": final.accuracy,
        "loss": final.loss,
        "rounds": len(rounds),
        "examples_processed": processed[-1],
        "bytes_down": sum(round.bytes_down for round in rounds),
        "bytes_up": sum(round.bytes_up for round in rounds),
    }
    confusion = confusion_rows(test.labels, final.predictions, datasets.CLASSES)
    files.write_tensors(MODEL, state.parameters)
    files.write_table(REPORTS / "rounds.csv", rows, dataset=dataset)
    files.write_table(
        REPORTS / "clients.csv", (vars(client) for round in rounds for client in round.clients), dataset=dataset
    )
    files.write_table(REPORTS / "confusion.csv", confusion, dataset=dataset, method="federated")
    files.write_json(REPORTS / "metrics.json", {"federated": metrics | provenance(compute.torch_device())})


if __name__ == "__main__":
    console.run(main)
