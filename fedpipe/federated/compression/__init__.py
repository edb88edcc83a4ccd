"""How updates are made smaller before they are sent, and the model before it is.

To add one: a file with a `Compression`, and its name in COMPRESSIONS.
"""

from fedpipe.federated.compression.base import Compression
from fedpipe.federated.compression.floats import BFloat16, Float16
from fedpipe.federated.compression.qsgd import Qsgd
from fedpipe.federated.compression.sign import Sign
from fedpipe.federated.compression.sparse import RandomK, TopK

COMPRESSIONS: dict[str, type[Compression]] = {
    "none": Compression,
    "top-k": TopK,
    "random-k": RandomK,
    "qsgd": Qsgd,
    "sign": Sign,
    "float16": Float16,
    "bfloat16": BFloat16,
}
