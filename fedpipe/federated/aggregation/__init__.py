"""How the updates of a round become one.

To add one: a file with an `Aggregator`, and its name in AGGREGATORS.
"""

from typing import Any

from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.clipping import CenteredClipping, NormBounding
from fedpipe.federated.aggregation.coordinates import Median, TrimmedMean
from fedpipe.federated.aggregation.geometric import GeometricMedian
from fedpipe.federated.aggregation.krum import Bulyan, Krum, MultiKrum
from fedpipe.federated.aggregation.mean import Mean

AGGREGATORS: dict[str, type[Aggregator[Any]]] = {
    "mean": Mean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "bulyan": Bulyan,
    "geometric-median": GeometricMedian,
    "centered-clipping": CenteredClipping,
    "norm-bounding": NormBounding,
}
