"""Federated averaging, written out: algorithm 1 of McMahan et al. 2017, arXiv:1602.05629, on MNIST's sample.

    python examples/fedavg.py

A test holds this to `fedpipe.run`, which gives the same bits.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from fedpipe.data.partition.settings import Partition
from fedpipe.data.sources import offline_sample
from fedpipe.models.parameters import Parameters, initial_parameters, network_with, parameters_of
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.system.randomness import generator
from fedpipe.training.evaluation import evaluate
from fedpipe.training.images import normalised

K, COHORT, ROUNDS = 10, 4, 3  # clients, those of a round, rounds
E, B, RATE = 2, 20, 0.05  # local epochs, batch size, learning rate
SEED = 42
UNIT = 2.0**-44  # sums of whole multiples of it are exact, in any order

data = offline_sample()
network = ReferenceCNN().on(data.spec)
clients = Partition(clients=K).assign(data.train.labels.numpy(), SEED)  # the indices of each one's examples, P_k


def fedavg() -> Iterator[Parameters]:
    """The server executes: yield the model after each round."""
    weights = initial_parameters(network, SEED)
    for t in range(1, ROUNDS + 1):
        cohort = sorted(generator(SEED, "cohort", round=t).choice(K, COHORT, replace=False))
        examples = sum(len(clients[k]) for k in cohort)
        updates = [(len(clients[k]) / examples, client_update(k, t, weights)) for k in cohort]
        change = {name: mean([(p, new[name] - old) for p, new in updates]) for name, old in weights.items()}
        weights = {name: (old.double() + change[name]).float() for name, old in weights.items()}
        yield weights


def client_update(k: int, t: int, weights: Parameters) -> Parameters:
    """ClientUpdate(k, w): train on client k's examples, and return its model."""
    images, labels = data.train.images[clients[k]], data.train.labels[clients[k]]
    model = network_with(network, weights).train()
    sgd = torch.optim.SGD(model.parameters(), RATE)
    rng = generator(SEED, "batches", round=t, client=k)
    for _ in range(E):
        for batch in torch.from_numpy(rng.permutation(len(labels))).split(B):
            sgd.zero_grad()
            F.cross_entropy(model(normalised(images[batch], data.spec)), labels[batch]).backward()
            sgd.step()
    return parameters_of(model)


def mean(updates: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """Return Σ_k p_k Δ_k, of terms rounded to a sixteenth of the unit."""
    total = sum((p * delta.double() / (UNIT / 16)).round() for p, delta in updates)
    return torch.as_tensor(total).div(16).round().mul(UNIT)


if __name__ == "__main__":
    torch.set_num_threads(1)  # how torch divides a sum decides its last bits
    for t, weights in enumerate(fedavg(), start=1):
        test = evaluate(network_with(network, weights), data.test.images, data.test.labels, data.spec)
        print(f"round {t}: test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}")
