"""How the updates of a round become one.

To add one: a file with an `Aggregator`, and its name in AGGREGATORS.
"""

from typing import Any

from fedpipe.federated.aggregation.base import Aggregator, Refused
from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.aggregation.mean import ExactSum, Mean

__all__ = ["AGGREGATORS", "Aggregator", "Collected", "Collecting", "ExactSum", "Mean", "Refused"]

AGGREGATORS: dict[str, type[Aggregator[Any]]] = {
    "mean": Mean,
}
