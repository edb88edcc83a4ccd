"""The workloads' data in both forms, with the same examples: an .npz for the peers, and a folder for fedpipe.

Such a folder holds shards/ (the clients' examples), test.safetensors and dataset.json.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.workloads import Workload
from fedpipe.data import datasets, store
from fedpipe.data.datasets import Split
from fedpipe.data.partition.iid import IID
from fedpipe.system.files import write_json
from fedpipe.system.randomness import generator
from fedpipe.system.tensors import write_tensors

DATASET = Path("data/dataset")


def load_mnist() -> tuple[Split, Split]:
    """Return the training and the test set.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    return datasets.load(DATASET / "train.safetensors"), datasets.load(DATASET / "test.safetensors")


def prepare(workload: Workload, scratch: Path) -> tuple[Path, Path]:
    """Write a workload's data, unless that of as many clients is there already; return the .npz and the folder.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    npz, folder = scratch / f"{workload.clients}.npz", scratch / str(workload.clients)
    if not npz.exists():
        train, test = load_mnist()
        used = workload.clients * workload.per_client
        train = Split(train.images[:used], train.labels[:used])
        even = np.full(workload.clients, 1 / workload.clients)
        parts = IID().assign(train.labels.numpy(), even, generator(0, "benchmark"))
        assignment = [np.sort(part) for part in parts]
        write(folder, train, test, assignment)
        np.savez(
            npz,
            images=train.images[..., 0].numpy(),
            labels=train.labels.numpy(),
            assignment=np.stack(assignment),
            test_images=test.images[..., 0].numpy(),
            test_labels=test.labels.numpy(),
        )
    return npz, folder


def write(folder: Path, train: Split, test: Split, assignment: Sequence[np.ndarray]) -> None:
    """Write a folder of data; assignment holds for each client the indices of the examples it trains on."""
    description = datasets.describe(DATASET / "dataset.json")
    store.write(folder / "shards", train.images, train.labels, assignment, description.classes)
    write_tensors(folder / "test.safetensors", {"images": test.images, "labels": test.labels})
    write_json(folder / "dataset.json", asdict(description) | {"validation_examples": 0})
