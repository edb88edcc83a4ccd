"""The federated algorithms: what a client does besides training, and what the server does with the mean update.

To add one: a file with a `Strategy`, and its name in STRATEGIES.
"""

from fedpipe.strategies.base import CLIENTS, Aggregate, ServerState, Strategy, Trained, Upload, Visit
from fedpipe.strategies.fedavg import FedAvg
from fedpipe.strategies.fedavgm import FedAvgM
from fedpipe.strategies.feddyn import FedDyn
from fedpipe.strategies.fednova import FedNova
from fedpipe.strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from fedpipe.strategies.fedprox import FedProx
from fedpipe.strategies.fedsgd import FedSGD
from fedpipe.strategies.qfedavg import QFedAvg
from fedpipe.strategies.scaffold import Scaffold

__all__ = ["CLIENTS", "STRATEGIES", "Aggregate", "ServerState", "Strategy", "Trained", "Upload", "Visit"]

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedsgd": FedSGD,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "feddyn": FedDyn,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "q-fedavg": QFedAvg,
}
