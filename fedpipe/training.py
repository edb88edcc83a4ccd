"""The one training loop: minibatch optimisation of a network on examples in memory."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fedpipe.models.base import normalised
from fedpipe.params import Section

OPTIMIZERS = {
    "adam": torch.optim.Adam,  # Kingma & Ba 2015, arXiv:1412.6980, with betas (0.9, 0.999)
    "sgd": torch.optim.SGD,  # plain, as in McMahan et al. 2017
}


class Training(Section):
    """How a network is trained, by a client or centrally."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 100
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3


def train(
    network: nn.Module, images: Tensor, labels: Tensor, settings: Training, rng: np.random.Generator
) -> Iterator[float]:
    """Trains in place with a new optimiser; yields after each epoch the mean loss of its batches, as trained.

    Args:
        network: takes what `normalised` returns.
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        settings: epochs, batch size, optimiser, learning rate.
        rng: the order of the examples, drawn anew each epoch. A last, smaller batch is used like the others.
    """
    network.train()
    optimizer = OPTIMIZERS[settings.optimizer](network.parameters(), lr=settings.lr)
    examples = len(labels)
    for _ in range(settings.epochs):
        total = torch.zeros((), dtype=torch.float64)
        for batch in torch.from_numpy(rng.permutation(examples)).split(settings.batch_size):
            loss = F.cross_entropy(network(normalised(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)  # stays a tensor: reading it out would stall the loop
        yield total.item() / examples
