"""What secure aggregation costs: time and bytes, of a client and of the server, if 30 % drop out.

Clients run one after the other in this process, without training: their numbers are random.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from fedpipe.federated.secure.bonawitz import Bonawitz
from fedpipe.federated.secure.client import SecureClient
from fedpipe.federated.secure.messages import EncryptedShares, Shares
from fedpipe.federated.secure.server import SecureServer
from fedpipe.system.machine import train_on_threads

LOGISTIC, TWO_NN = 7_850, 199_210  # the numbers of these models
CASES = [  # clients, numbers, and when some drop out: before masking or after
    (10, LOGISTIC, "after"),
    (100, LOGISTIC, "after"),
    (100, LOGISTIC, "before"),
    (1000, LOGISTIC, "after"),
    (10, TWO_NN, "after"),
    (100, TWO_NN, "after"),
]
LEAVING = 0.3  # of the clients
STEPS = ["advertise", "share", "mask", "unmask"]


def measure(most: int) -> pd.DataFrame:
    """Return a row for each case with up to `most` clients.

    Milliseconds are of CPU time: of the steps a client's on average, of the server all of them. Bytes are of a client
    that stays to the end, besides the model.

    Raises:
        RuntimeError: the sum is not that of the numbers.
    """
    train_on_threads(1)
    _row(10, 10, "after")  # the first time is slower
    return pd.DataFrame([_row(*case) for case in CASES if case[0] <= most])


def _row(clients: int, length: int, leaving: str) -> dict[str, Any]:
    spent, counted = defaultdict[str, float](float), Counter[str]()

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[step] += time.process_time() - start
        counted[step] += 1

    up, down = Counter[int](), Counter[int]()
    staying = range(round(LEAVING * clients), clients)
    arrived = staying if leaving == "before" else range(clients)
    cohort = {k: SecureClient.simulated(0, 1, k) for k in range(clients)}
    keys = {}
    for k, client in cohort.items():
        with timed("advertise"):
            keys[k] = client.advertise()
        up[k] += len(keys[k])
    with timed("server"):
        server = SecureServer(1, Bonawitz().needed(clients), keys)
        request = server.share_request()
    shares: dict[int, EncryptedShares] = {}
    for k, client in cohort.items():
        with timed("share"):
            shares[k] = client.share(request)
        up[k] += len(shares[k])
        down[k] += len(request)
    with timed("server"):
        request = server.mask_request(shares)
    masked, plain = np.zeros(length, np.uint64), np.zeros(length, np.uint64)
    for k in arrived:
        numbers = np.random.default_rng(k).integers(0, 2**64, length, dtype=np.uint64)
        plain += numbers
        with timed("mask"):
            sent = cohort[k].masked(request, numbers)
        with timed("server"):
            masked += sent.numbers.numpy().view(np.uint64)
        up[k] += len(sent)
        down[k] += len(request)
    with timed("server"):
        requests = server.unmask_requests(shares, arrived)
    answers: dict[int, Shares] = {}
    for k in staying:
        with timed("unmask"):
            answers[k] = cohort[k].unmask(requests[k])
        up[k] += len(answers[k])
        down[k] += len(requests[k])
    with timed("server"):
        total = server.unmasked(masked, shares, arrived, answers)
    if not np.array_equal(total, plain):
        raise RuntimeError(f"{clients} clients, {length} numbers: the sum is another one")
    last = clients - 1
    return {
        "clients": clients,
        "numbers": length,
        "leaving": leaving,
        **{f"{step}_ms": 1000 * spent[step] / counted[step] for step in STEPS},
        "client_ms": 1000 * sum(spent[step] / counted[step] for step in STEPS),
        "server_ms": 1000 * spent["server"],
        "bytes_up": up[last],
        "bytes_down": down[last],
        "update_bytes": 4 * length,  # without masks, as float32
    }


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table for a README."""
    lines = [
        "| clients | numbers | 30 % leave | keys | shares | masks | unmasking | a client | server "
        "| sent | instead of | received |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        steps = " | ".join(f"{row[f'{step}_ms']:.1f} ms" for step in STEPS)
        sizes = " | ".join(f"{row[name] / 1000:,.1f} kB" for name in ("bytes_up", "update_bytes", "bytes_down"))
        lines.append(
            f"| {row['clients']:,} | {row['numbers']:,} | {row['leaving']} masking | {steps} "
            f"| {row['client_ms']:,.0f} ms | {row['server_ms']:,.0f} ms | {sizes} |"
        )
    return "\n".join(lines) + "\n"
