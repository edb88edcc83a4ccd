"""The federated algorithms.

To add one: a file with a `Strategy`, and its name in STRATEGIES.
"""

from fedpipe.federated.strategies.base import Strategy
from fedpipe.federated.strategies.fedavg import FedAvg
from fedpipe.federated.strategies.fedavgm import FedAvgM
from fedpipe.federated.strategies.fedbn import FedBN
from fedpipe.federated.strategies.feddyn import FedDyn
from fedpipe.federated.strategies.fednova import FedNova
from fedpipe.federated.strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from fedpipe.federated.strategies.fedprox import FedProx
from fedpipe.federated.strategies.fedsgd import FedSGD
from fedpipe.federated.strategies.qfedavg import QFedAvg
from fedpipe.federated.strategies.scaffold import Scaffold

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedsgd": FedSGD,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "feddyn": FedDyn,
    "fedbn": FedBN,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "q-fedavg": QFedAvg,
}
