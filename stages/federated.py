"""Train by federated rounds on the clients' examples, and evaluate on the test set."""

import tempfile
from pathlib import Path

from fedpipe.config.file import read, run_stage
from fedpipe.data import datasets
from fedpipe.experiment import Experiment, FederatedData, run
from fedpipe.federated.rounds import CLIENT_COLUMNS, Round
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ServerState
from fedpipe.system import console, files
from fedpipe.system.provenance import provenance
from fedpipe.training.evaluation import confusion_rows

DATA = FederatedData(dataset=Path("data/mnist"), clients=Path("data/shards"))
MODEL = Path("models/federated.safetensors")
REPORTS = Path("reports/federated")


def main() -> None:
    experiment = read(Experiment, only_its_fields=True)
    settings = experiment.federated
    MODEL.parent.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=MODEL.parent, prefix=".client-states-") as states,
        console.progress("client updates", settings.rounds * settings.clients_per_round) as bar,
    ):

        def report(state: ServerState, round: Round) -> None:
            for line in _events(round, settings):
                console.say(line)
            bar.report(f"round {round.number}", round.test, round.examples_processed)

        result = run(
            experiment, DATA, states=Path(states), on_round=report, on_clients=lambda reports: bar.advance(len(reports))
        )
    if len(result.rounds) < settings.rounds:
        console.say(f"stopped early, after round {len(result.rounds)} of {settings.rounds}")

    test = datasets.load(DATA.dataset / "test.safetensors")
    machine = provenance(experiment.compute.torch_device())
    confusion = confusion_rows(test.labels, result.test.predictions, result.classes)
    dataset = result.dataset
    files.write_tensors(MODEL, result.state.parameters)
    files.write_table(REPORTS / "rounds.csv", result.round_rows(), dataset=dataset)
    files.write_table(REPORTS / "clients.csv", result.client_rows(), columns=CLIENT_COLUMNS, dataset=dataset)
    files.write_table(REPORTS / "confusion.csv", confusion, dataset=dataset, method="federated")
    files.write_json(REPORTS / "metrics.json", {"federated": result.metrics() | machine})


def _events(round: Round, settings: Federated) -> list[str]:
    """Say what a person should know of a round besides its result."""
    name = f"round {round.number}"
    lines = [f"{name}: client {one.client}'s update is refused: {one.reason}" for one in round.refusals]
    if lines:
        lines.append("training diverges on these clients; a smaller federated.local.lr might do")
    lines += [f"{name}: client {client}'s update was lost" for client in round.lost]
    if round.skipped:
        lines.append(
            f"{name}: skipped: {round.returned} of {len(round.cohort.drawn)} clients returned an update, "
            f"federated.min_updates is {settings.min_updates}; the model stays as it is"
        )
    return lines


if __name__ == "__main__":
    run_stage(main)
