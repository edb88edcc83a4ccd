"""The works' data in both forms: an .npz for the peers, shards and a test set on disk for fedpipe. Equal examples."""

from pathlib import Path

import numpy as np

from benchmarks.works import Work
from fedpipe import datasets, shards
from fedpipe.files import write_tensors
from fedpipe.partition.iid import IID
from fedpipe.randomness import generator

MNIST = Path("data/mnist")


def prepare(work: Work, scratch: Path) -> tuple[Path, Path]:
    """(the .npz, the folder) of works with so many clients; made once.

    Raises:
        UserError: the pipeline has not downloaded MNIST yet.
    """
    npz, folder = scratch / f"{work.clients}.npz", scratch / str(work.clients)
    if not npz.exists():
        train, test = (datasets.load(MNIST / f"{name}.safetensors") for name in ("train", "test"))
        used = work.clients * work.per_client
        labels = train.labels[:used]
        even = np.full(work.clients, 1 / work.clients)
        assignment = [np.sort(part) for part in IID().assign(labels.numpy(), even, generator(0, "benchmark"))]
        shards.write(folder / "shards", train.images[:used], labels, assignment, 10)
        write_tensors(folder / "test.safetensors", {"images": test.images, "labels": test.labels})
        np.savez(
            npz,
            images=train.images[:used].numpy(),
            labels=labels.numpy(),
            assignment=np.stack(assignment),
            test_images=test.images.numpy(),
            test_labels=test.labels.numpy(),
        )
    return npz, folder
