"""What every privacy mechanism is."""

from typing import Any, ClassVar

from fedpipe.config.section import Section
from fedpipe.federated.aggregation.base import Aggregator


class Mechanism(Section):
    """Bound nothing. Mechanisms differ from that; their fields are their parameters."""

    is_private: ClassVar[bool] = False  # whether clients are promised privacy, so that none may be told from others

    def aggregator(self, chosen: Aggregator[Any], clients_per_round: int, rounds: int) -> Aggregator[Any]:
        """Return the aggregator that keeps the promise, in place of the one that `federated.aggregation` names."""
        return chosen
