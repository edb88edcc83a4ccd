"""Train every client alone on its own examples, and evaluate each one's model."""

from pathlib import Path

from fedpipe import local
from fedpipe.config.file import read, run_stage
from fedpipe.system import console, files
from fedpipe.system.checkpoints import in_project
from fedpipe.system.lifetime import dvcs_record
from fedpipe.system.live import running
from fedpipe.system.provenance import write_provenance

DATASET = Path("data/dataset")
SHARDS = Path("data/shards")
REPORTS = Path("reports/local")
LINES = 10  # of progress


def main() -> None:
    experiment = read(local.LocalExperiment, only_its_fields=True)

    def write(result: local.Result) -> None:
        files.write_table(REPORTS / "clients.csv", result.client_rows(), dataset=result.dataset)
        files.write_json(REPORTS / "metrics.json", result.headline())
        files.write_json(REPORTS / "figures.json", result.figures())
        files.write_sums(REPORTS, "clients.csv", "figures.json")
        write_provenance("local", experiment.compute.torch_device(), REPORTS / files.SUMS)

    with console.progress("clients", None) as bar, running("local", "client") as live:
        done = examples = lines = 0  # of clients that the bar, and of examples and lines that its lines, have told of
        told = 0  # of examples that `live` has been told of

        def advance(result: local.Result) -> None:
            nonlocal done
            bar.advance(len(result.clients) - done, result.drawn)
            done = len(result.clients)
            live.status.steps = result.drawn

        def resumed(result: local.Result) -> None:
            nonlocal examples, lines, told
            console.say(f"interrupted before: going on after {len(result.clients)} of {result.drawn} clients")
            advance(result)
            live.go_on(done)
            examples, lines = result.examples_processed, LINES * done // result.drawn
            told = examples

        def report(result: local.Result) -> None:
            nonlocal examples, lines, told
            advance(result)
            live.step(done, {"test": result}, result.examples_processed - told)
            told = result.examples_processed
            if LINES * done // result.drawn > lines:
                bar.report(
                    f"{done} of {result.drawn} clients alone", {"test": result}, result.examples_processed - examples
                )
                examples, lines = result.examples_processed, LINES * done // result.drawn

        result = local.run(
            experiment, DATASET, SHARDS, checkpoint=in_project(Path.cwd()), recorded_in=dvcs_record(),
            on_resume=resumed, on_clients=report, on_end=write,
        )  # fmt: skip
    if diverged := sum(client.diverged for client in result.clients):
        console.say(
            f"training has diverged on {diverged} of {result.drawn} clients; a smaller federated.local.lr, or "
            "federated.local.clip_norm, might do"
        )


if __name__ == "__main__":
    run_stage(main)
