"""Federated training on the client shards, evaluated on the test set each round."""

import math
import tempfile
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
    dataset = datasets.describe(MNIST / "dataset.json")
    model = params.read(ModelChoice, at="model").model.for_classes(dataset.classes)
    seed = params.read_seed()
    test = datasets.load(MNIST / "test.safetensors")

    population = shards.locate(SHARDS)
    compute = params.read(Compute, at="compute")
    state = ServerState(0, initial_parameters(model, seed))
    rounds: list[federated.Round] = []
    total = settings.rounds * settings.clients_per_round
    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent, prefix=".client-states-") as states:
        work = federated.Work(
            settings, model, seed, (MNIST / "test.safetensors").resolve(), Path(states).resolve(), compute
        )
        with compute.start(work) as map, console.progress("client updates", total) as bar:
            training = federated.run(state, work, population, len(test), map, on_client=lambda _: bar.advance())
            for state, round in training:  # noqa: B007 - the last state is used below
                rounds.append(round)
                if round.void:
                    drawn, returned = len(round.cohort.drawn), len(round.cohort.members)
                    console.say(
                        f"round {round.number}: void: {returned} of {drawn} clients returned an update, "
                        f"federated.min_updates is {settings.min_updates}; the model stays as it is"
                    )
                bar.report(f"round {round.number}", round.test, round.examples_processed)
                if round.test and not math.isfinite(round.test.loss):
                    console.say("the loss is no number: training diverged; a smaller federated.local.lr might do")
    if len(rounds) < settings.rounds:
        console.say(f"stopped early, after round {len(rounds)} of {settings.rounds}")

    processed = list(accumulate(round.examples_processed for round in rounds))
    rows = [round.row() | {"examples_processed": n} for round, n in zip(rounds, processed, strict=True)]
    final = rounds[-1].test
    assert final is not None, "the last round is evaluated, whatever evaluate_every"
    metrics = {
        "dataset": dataset.name,
        "accuracy": final.accuracy,
        "loss": final.loss,
        "rounds": len(rounds),
        "void_rounds": sum(round.void for round in rounds),
        "examples_processed": processed[-1],
        "bytes_down": sum(round.bytes_down for round in rounds),
        "bytes_up": sum(round.bytes_up for round in rounds),
    }
    clients = [vars(client) for round in rounds for client in round.clients]
    confusion = confusion_rows(test.labels, final.predictions, dataset.classes)
    files.write_tensors(MODEL, state.parameters)
    files.write_table(REPORTS / "rounds.csv", rows, dataset=dataset.name)
    files.write_table(REPORTS / "clients.csv", clients, columns=federated.CLIENT_COLUMNS, dataset=dataset.name)
    files.write_table(REPORTS / "confusion.csv", confusion, dataset=dataset.name, method="federated")
    files.write_json(REPORTS / "metrics.json", {"federated": metrics | provenance(compute.torch_device())})


if __name__ == "__main__":
    console.run(main)
