"""Run a federation, and print who opens which file: `server`, or the client whose update is being made.

Python tells an audit hook of every file that it opens and every folder that it lists. Forked workers inherit the hook.
safetensors opens files by itself, and is made to tell of them here.

Usage: python -m tests.privacy_audit ENGINE STRATEGY SHARDS TEST STATES
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

from fedpipe.data import store
from fedpipe.engines import Compute
from fedpipe.federated.client import Client
from tests.federations import federate

EVENTS = ("open", "os.listdir", "os.scandir")


def main(engine: str, strategy: str, *folders: str) -> None:
    shards, test, states = map(Path, folders)
    watched, now, out = (str(shards.resolve()), str(states.resolve())), threading.local(), os.dup(sys.stdout.fileno())
    update, safe_open = Client.update, store.safe_open

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(watched):
            os.write(out, f"{getattr(now, 'client', 'server')}\t{arguments[0]}\n".encode())

    def as_client(self: Client, broadcast: Any, task: Any) -> Any:
        now.client = task.client
        try:
            return update(self, broadcast, task)
        finally:
            del now.client

    def told(path: Path, *arguments: Any, **named: Any) -> Any:
        sys.audit("open", str(path), "r", 0)
        return safe_open(path, *arguments, **named)

    Client.update, store.safe_open = as_client, told
    sys.addaudithook(hook)
    compute = Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu"})
    if strategy == "a curious server":
        store.open_store(shards.resolve()).examples(3)
        strategy = "fedavg"
    federate(
        shards, test, states=states, strategy=strategy, rounds=3, clients_per_round=3, evaluate_clients=True,
        compute=compute,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
