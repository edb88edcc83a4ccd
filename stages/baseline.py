"""Train the same model on the whole training set: the centralised baseline."""

from pathlib import Path

from fedpipe import baseline
from fedpipe.config.file import read, run_stage
from fedpipe.serving import trained
from fedpipe.system import console, files
from fedpipe.system.checkpoints import in_project
from fedpipe.system.lifetime import dvcs_record
from fedpipe.system.live import running
from fedpipe.system.pace import Pace
from fedpipe.system.provenance import write_provenance
from fedpipe.training.evaluation import confusion_rows

DATASET = Path("data/dataset")
MODEL = Path("models/baseline.safetensors")
REPORTS = Path("reports/baseline")


def main() -> None:
    experiment = read(baseline.CentralisedExperiment, only_its_fields=True)
    pace = Pace(1.0)

    def write_so_far(result: baseline.Result) -> None:
        files.write_table(REPORTS / "epochs.csv", result.epoch_rows(), dataset=result.dataset)
        files.write_json(REPORTS / "metrics.json", result.headline())
        files.write_table(REPORTS / "timings.csv", result.timing_rows(), dataset=result.dataset)
        live.status.table = str(REPORTS / "epochs.csv")

    def write(result: baseline.Result) -> None:
        confusion = confusion_rows(result.test.confusion)
        trained.write(MODEL, result.parameters, experiment, result.data)
        files.write_table(REPORTS / "confusion.csv", confusion, dataset=result.dataset, method="centralised")
        files.write_json(REPORTS / "figures.json", result.figures())
        write_so_far(result)
        files.write_sums(REPORTS, "epochs.csv", "confusion.csv", "figures.json")
        seconds = sum(row["training_seconds"] + row["evaluation_seconds"] for row in result.timing_rows())
        write_provenance("baseline", experiment.compute.torch_device(), REPORTS / files.SUMS, seconds)

    with (
        console.progress("epochs", experiment.baseline.epochs) as bar,
        running("baseline", "epoch", experiment.baseline.epochs) as live,
    ):

        def resumed(result: baseline.Result) -> None:
            done = len(result.epochs)
            console.say(f"interrupted before: going on after epoch {done} of {experiment.baseline.epochs}")
            bar.advance(done)
            live.go_on(done)

        def report(result: baseline.Result) -> None:
            bar.advance()
            bar.report(f"epoch {len(result.epochs)}", result.evaluations.by_data(), result.examples)
            live.step(len(result.epochs), result.evaluations.by_data(), result.examples)
            with pace.turn() as due:
                if due:
                    write_so_far(result)

        result = baseline.run(
            experiment, DATASET, checkpoint=in_project(Path.cwd()), recorded_in=dvcs_record(), on_resume=resumed,
            on_epoch=report, on_end=write,
        )  # fmt: skip
    if result.diverged:
        remedy = "a smaller baseline.lr, or baseline.clip_norm, might do"
        console.say(f"training has diverged: the test loss is {result.test.loss:g}; {remedy}")
    if len(result.epochs) < experiment.baseline.epochs:
        console.say(f"stopped early, after epoch {len(result.epochs)} of {experiment.baseline.epochs}")


if __name__ == "__main__":
    run_stage(main)
