"""The same works by fedpipe itself: its round loop, its engines, its shards on disk.
Adds to them only a count of what was trained and the time at which each round ended."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.peers.common import Tally, report
from benchmarks.works import WORKS, Work
from fedpipe import datasets, federated, shards
from fedpipe.client import ClientReport, Local
from fedpipe.engines import Compute
from fedpipe.models import ModelChoice, initial_parameters
from fedpipe.strategies import ServerState


def federate(
    work: Work, folder: Path, rounds: int, engine: str, workers: int | None, precision: str, strategy: str = "fedavg"
) -> None:
    """Rounds of the work on the shards and the test set of the folder; prints the report."""
    model = ModelChoice.model_validate({"name": work.model}).model
    settings = federated.Federated(
        # No peer evaluates in its rounds: here that is done in one round more, which is not counted.
        rounds=rounds + 1,
        evaluate_every=rounds + 1,
        evaluate_clients=False,
        clients_per_round=work.cohort,
        strategy=strategy,
        local=Local(epochs=1, batch_size=work.batch_size, optimizer="sgd", lr=work.lr),
    )
    compute = Compute.model_validate(
        {"engine": engine, "workers": workers or "auto", "precision": precision, "device": "cpu"}
    )
    test = (folder / "test.safetensors").resolve()
    population = shards.locate(folder / "shards")
    tally = Tally()

    def count(client: ClientReport) -> None:
        if client.round <= rounds:
            tally.add(client.examples, -(-client.examples // work.batch_size))

    with tempfile.TemporaryDirectory(dir=folder) as states:
        trains = federated.Work(settings, model, 0, test, Path(states), compute)
        with compute.start(trains) as map:
            state = ServerState(0, initial_parameters(model, 0))
            examples = len(datasets.load(test))
            for _, done in federated.run(state, trains, population, examples, map, on_client=count):
                if done.test is None:
                    tally.end_round()
                else:
                    report(f"fedpipe {engine} {precision}", work, workers or 0, tally, done.test.accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("folder", type=Path, help="with shards/ and test.safetensors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    federate(WORKS[given.work], given.folder, given.rounds, given.engine, given.workers, given.precision)


if __name__ == "__main__":
    main()
