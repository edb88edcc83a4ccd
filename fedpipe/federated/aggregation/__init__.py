"""How the updates of a round become one.

To add one: a file with an `Aggregator`, and its name in AGGREGATORS.
"""

from typing import Any

from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.mean import Mean

AGGREGATORS: dict[str, type[Aggregator[Any]]] = {
    "mean": Mean,
}
