"""What the server does with the aggregated update.

To add one: a file with a `Strategy`, and its name in STRATEGIES.
"""

from fedpipe.strategies.base import ServerState, Strategy
from fedpipe.strategies.fedavg import FedAvg

__all__ = ["STRATEGIES", "ServerState", "Strategy"]

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
}
