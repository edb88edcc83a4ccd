"""The models of the workloads, written as any user of torch would write them.

This module knows nothing of training, data or engines.
"""

from torch import nn


def reference_cnn() -> nn.Module:
    """Return the reference's CNN, 28,938 parameters: (n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def two_layer_network() -> nn.Module:
    """Return the 2NN of arXiv:1602.05629, 199,210 parameters: (n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )


def paper_cnn() -> nn.Module:
    """Return the CNN of arXiv:1602.05629, 1,663,370 parameters: (n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


MODELS = {"reference-cnn": reference_cnn, "2nn": two_layer_network, "paper-cnn": paper_cnn}


def build(name: str) -> nn.Module:
    """Return a new model by its name."""
    return MODELS[name]()
