"""Who gets which example. A partitioner sees labels and a generator, never images or files.

To add one: a file with a `Partitioner`, and its name in PARTITIONERS.
"""

from pydantic import PositiveInt

from fedpipe.params import Section, choice
from fedpipe.partition.base import Partitioner
from fedpipe.partition.iid import IID

PARTITIONERS: dict[str, type[Partitioner]] = {
    "iid": IID,
}


@choice("scheme", PARTITIONERS)
class Partition(Section):
    """The training set among clients."""

    clients: PositiveInt = 8
    scheme: str = "iid"

    @property
    def partitioner(self) -> Partitioner:
        return self.chosen("scheme")
