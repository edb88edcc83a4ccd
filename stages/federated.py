"""Train by federated rounds on the clients' examples, and evaluate on validation data and the test set."""

from pathlib import Path

from fedpipe.config.file import read, run_stage
from fedpipe.experiment import (
    Experiment,
    FederatedData,
    Result,
    attack_figures,
    evaluate_holdouts,
    holdout_rows,
    run,
)
from fedpipe.federated.messages import ClientReport
from fedpipe.federated.rounds import CLIENT_COLUMNS, REMEDY, Round
from fedpipe.federated.settings import Federated
from fedpipe.serving import trained
from fedpipe.system import console, files
from fedpipe.system.checkpoints import in_project
from fedpipe.system.lifetime import dvcs_record
from fedpipe.system.live import running
from fedpipe.system.pace import Pace
from fedpipe.system.provenance import write_provenance
from fedpipe.training.evaluation import confusion_rows

DATA = FederatedData(dataset=Path("data/dataset"), clients=Path("data/shards"))
MODEL = Path("models/federated.safetensors")
REPORTS = Path("reports/federated")


def main() -> None:
    experiment = read(Experiment, only_its_fields=True)
    settings = experiment.federated
    pace = Pace(1.0)

    def write_so_far(result: Result) -> None:
        files.write_table(REPORTS / "rounds.csv", result.round_rows(), dataset=result.dataset)
        files.write_json(REPORTS / "metrics.json", result.headline())
        files.write_table(REPORTS / "timings.csv", result.timing_rows(), dataset=result.dataset)
        live.status.table = str(REPORTS / "rounds.csv")

    def write(result: Result) -> None:
        confusion = confusion_rows(result.test.confusion)
        trained.write(MODEL, result.state.parameters, experiment, result.data)
        columns = [*CLIENT_COLUMNS, *(["hostile"] if settings.is_attacked else [])]
        files.write_table(REPORTS / "clients.csv", result.client_rows(), columns=columns, dataset=result.dataset)
        files.write_table(REPORTS / "confusion.csv", confusion, dataset=result.dataset, method="federated")
        holdouts = evaluate_holdouts(experiment, DATA, result.state.parameters)
        files.write_table(REPORTS / "holdout.csv", holdout_rows(experiment, holdouts), dataset=result.dataset)
        files.write_json(REPORTS / "figures.json", result.figures() | attack_figures(experiment, holdouts))
        write_so_far(result)
        files.write_sums(REPORTS, "rounds.csv", "clients.csv", "confusion.csv", "holdout.csv", "figures.json")
        seconds = sum(row["training_seconds"] + row["evaluation_seconds"] for row in result.timing_rows())
        write_provenance("federated", experiment.compute.torch_device(), REPORTS / files.SUMS, seconds)

    with (
        console.progress("client updates", settings.rounds * settings.clients_per_round) as bar,
        running("federated", "round", settings.rounds) as live,
    ):

        def resumed(result: Result) -> None:
            console.say(f"interrupted before: going on after round {len(result.history)} of {settings.rounds}")
            bar.advance(len(result.history) * settings.clients_per_round)
            live.go_on(len(result.history))
            for round in result.history:
                count(round)

        def arrived(reports: tuple[ClientReport, ...]) -> None:
            bar.advance(len(reports))
            if not settings.mechanism.is_private:  # else nobody is to know how many take part
                live.advance(len(reports) / settings.clients_per_round)

        def count(round: Round) -> None:
            if not settings.mechanism.is_private:
                live.count((one.client for one in round.refusals), round.lost)

        def report(result: Result) -> None:
            round = result.history[-1]
            for line in _events(round, settings):
                console.say(line)
            bar.report(f"round {round.number}", round.evaluations.by_data(), round.examples_processed)
            count(round)
            live.step(round.number, round.evaluations.by_data(), round.examples_processed)
            with pace.turn() as due:
                if due and round.evaluations.deciding:
                    write_so_far(result)

        result = run(
            experiment, DATA, checkpoint=in_project(Path.cwd()), recorded_in=dvcs_record(),
            on_resume=resumed, on_round=report, on_clients=arrived, on_end=write,
        )  # fmt: skip
    if result.state.diverged:
        console.say(f"training has diverged: the test loss is {result.test.loss:g}; {REMEDY}")
    if len(result.history) < settings.rounds:
        console.say(f"stopped early, after round {len(result.history)} of {settings.rounds}")


def _events(round: Round, settings: Federated) -> list[str]:
    """Say what a person should know of a round besides its result."""
    name = f"round {round.number}"
    lines = [f"{name}: client {one.client}'s update is refused: {one.reason}" for one in round.refusals]
    if lines:
        lines.append(f"training diverges on these clients; {REMEDY}")
    lines += [f"{name}: client {client}'s update was lost" for client in round.lost]
    if round.skipped:
        lines.append(
            f"{name}: skipped: {round.returned} of {len(round.cohort.drawn)} clients returned an update, "
            f"federated.min_updates is {settings.min_updates}; the model stays as it is"
        )
    return lines


if __name__ == "__main__":
    run_stage(main)
