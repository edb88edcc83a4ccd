"""The division of the training set among clients. A partitioner sees labels and a generator, never images or files.

To add one: a file with a `Partitioner`, and its name in PARTITIONERS.
"""

from fedpipe.config.section import Section
from fedpipe.data.partition.base import Partitioner
from fedpipe.data.partition.classes import Classes
from fedpipe.data.partition.dirichlet import Dirichlet
from fedpipe.data.partition.feature import Feature
from fedpipe.data.partition.iid import IID
from fedpipe.data.partition.inner_dirichlet import InnerDirichlet
from fedpipe.data.partition.natural import Natural
from fedpipe.data.partition.quantity import Quantity
from fedpipe.data.partition.shards import LabelShards

PARTITIONERS: dict[str, type[Partitioner]] = {
    "iid": IID,
    "shards": LabelShards,
    "classes": Classes,
    "dirichlet": Dirichlet,
    "inner-dirichlet": InnerDirichlet,
    "natural": Natural,
}
JOINED: dict[str, type[Section]] = {  # what a scheme may join to a partitioner with +
    "quantity": Quantity,
    "feature": Feature,
}
