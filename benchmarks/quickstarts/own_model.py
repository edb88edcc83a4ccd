"""Three rounds of FedProx on MNIST, with a network and settings of one's own."""

from torch import nn

import fedpipe


class Net(fedpipe.Model):
    """A small CNN, as in LeCun et al. 1998, with ReLU and max-pooling."""

    def build(self, spec: fedpipe.DataSpec) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, spec.classes),
        )  # fmt: skip


result = fedpipe.run(
    model=Net(),
    strategy="fedprox",
    fedprox={"mu": 0.1},
    clients=10,
    clients_per_round=5,
    rounds=3,
    local={"epochs": 1, "batch_size": 32, "optimizer": "sgd", "lr": 0.02, "momentum": 0.9},
)
print(result)
