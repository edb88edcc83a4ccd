"""Rounds of the 2NN on the data in a folder, however many clients it has: what `benchmarks scale` times."""

import argparse
from pathlib import Path

from benchmarks.fedpipe_runner import federate
from benchmarks.workloads import Workload
from fedpipe.engines import Compute


def main() -> None:
    """Run rounds as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with shards/, test.safetensors and dataset.json")
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--strategy", required=True)
    given = parser.parse_args()
    # Of the sizes only the cohort and the batch count.
    workload = Workload("scale", "2nn", clients=0, per_client=0, cohort=given.cohort, batch_size=10)
    federate(workload, given.folder, given.rounds, Compute(engine="processes", device="cpu"), given.strategy)


if __name__ == "__main__":
    main()
