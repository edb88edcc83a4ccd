"""How updates, and the model, are made smaller before they are sent.

To add one: a file with a `Compression`, and its name in COMPRESSIONS; for the model, in COMPRESSIONS_DOWN too.
"""

from fedpipe.federated.compression.base import Compression
from fedpipe.federated.compression.entropy import EntropyCoding, Zlib
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

COMPRESSIONS_DOWN: dict[str, type[Compression]] = {
    "none": Compression,
    "float16": Float16,
    "bfloat16": BFloat16,
    "qsgd": Qsgd,
}

ENTROPY_CODINGS: dict[str, type[EntropyCoding]] = {
    "none": EntropyCoding,
    "zlib": Zlib,
}
