"""From a data set and its partition to the clients' examples on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpipe.data import store
from fedpipe.data.datasets import Split
from fedpipe.data.partition.settings import Partition


def write_shards(
    folder: Path,
    train: Split,
    classes: int,
    partition: Partition,
    seed: int,
    *,
    on_client: Callable[[], None] = lambda: None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Divide the training examples among the clients, and write each client's.

    Args:
        folder: as in `fedpipe.data.store.write`.
        train: the examples.
        classes: how many labels there are.
        partition: how they are divided.
        seed: the experiment's.
        on_client: called for each client written, for progress.

    Returns:
        For each client the indices of the examples that it trains on, and of those that it holds out.

    Raises:
        ParameterError: the examples cannot be divided like this.
    """
    owners = None if train.owners is None else train.owners.numpy()
    assigned = enumerate(partition.assign(train.labels.numpy(), seed, owners))
    by_all = partition.held_out_by_all(len(train), seed)
    parts = [partition.hold_out(indices, client, seed, by_all) for client, indices in assigned]
    training, held_out = [one for one, _ in parts], [other for _, other in parts]
    store.write(
        folder,
        train.images,
        train.labels,
        training,
        classes,
        held_out=held_out,
        appearance=lambda images, client: partition.appearance(images, client, seed),
        on_client=on_client,
    )
    return training, held_out
