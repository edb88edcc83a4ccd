"""Federated learning as a reproducible pipeline; from Python, `fedpipe.run`.

What is exported here is imported when it is asked for, so that whoever needs little starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpipe.data.partition.base import Partitioner
    from fedpipe.experiment import Experiment
    from fedpipe.federated.aggregation.base import Aggregator
    from fedpipe.federated.attacks.base import Attack
    from fedpipe.federated.compression.base import Compression
    from fedpipe.federated.strategies.base import Strategy
    from fedpipe.federated.transforms.base import Transform
    from fedpipe.interactive import Result, run
    from fedpipe.models.base import Model
    from fedpipe.spec import DataSpec

__all__ = [
    "Aggregator", "Attack", "Compression", "DataSpec", "Experiment", "Model", "Partitioner", "Result", "Strategy",
    "Transform", "run",
]  # fmt: skip

_HOMES = {
    "Aggregator": "fedpipe.federated.aggregation.base",
    "Attack": "fedpipe.federated.attacks.base",
    "Compression": "fedpipe.federated.compression.base",
    "DataSpec": "fedpipe.spec",
    "Experiment": "fedpipe.experiment",
    "Model": "fedpipe.models.base",
    "Partitioner": "fedpipe.data.partition.base",
    "Result": "fedpipe.interactive",
    "Strategy": "fedpipe.federated.strategies.base",
    "Transform": "fedpipe.federated.transforms.base",
    "run": "fedpipe.interactive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
