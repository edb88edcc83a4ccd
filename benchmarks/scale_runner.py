"""Twenty rounds of the 2NN on the shards of a folder, whatever their number: what `benchmarks scale` times."""

import sys
from pathlib import Path

from benchmarks.fedpipe_runner import federate
from benchmarks.works import Work


def main() -> None:
    folder, cohort, strategy = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    work = Work("scale", "2nn", clients=0, per_client=0, cohort=cohort, batch_size=10)  # of them only the cohort counts
    federate(work, folder, rounds=20, engine="processes", workers=None, precision="float32", strategy=strategy)


if __name__ == "__main__":
    main()
