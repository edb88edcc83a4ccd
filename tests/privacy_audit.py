"""Run a federation, and print who opens which file: `server`, or the client whose work is being done.

Python tells an audit hook of every file that it opens and every folder that it lists. Forked workers inherit the hook.
safetensors opens files by itself, and is made to tell of them here.

Usage: python -m tests.privacy_audit ENGINE STRATEGY SHARDS TEST STATES

In place of a strategy: `alone`, every client alone; `held out`, a model's evaluation on every client's hold-out.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedpipe import local
from fedpipe.data import store
from fedpipe.engines import Compute
from fedpipe.experiment import FederatedData, evaluate_holdouts
from fedpipe.federated import holdout
from fedpipe.federated.client import Client
from fedpipe.models.logistic import Logistic
from tests.federations import Given, experiment_of, federate, settings_of, start_of

EVENTS = ("open", "os.listdir", "os.scandir")


def main(engine: str, strategy: str, *folders: str) -> None:
    shards, test, states = map(Path, folders)
    watched, now, out = (str(shards.resolve()), str(states.resolve())), threading.local(), os.dup(sys.stdout.fileno())
    update, safe_open, report, evaluate = (
        Client.update, store.safe_open, local.TrainAlone.report, holdout.evaluate_holdout
    )  # fmt: skip

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(watched):
            os.write(out, f"{getattr(now, 'client', 'server')}\t{arguments[0]}\n".encode())

    def as_client(client: int, work: Callable[[], Any]) -> Any:
        now.client = client
        try:
            return work()
        finally:
            del now.client

    def updating(self: Client, broadcast: Any, task: Any) -> Any:
        return as_client(task.client, lambda: update(self, broadcast, task))

    def training_alone(self: local.TrainAlone, client: int, parameters: Any) -> Any:
        return as_client(client, lambda: report(self, client, parameters))

    def evaluating(network: Any, clients: store.ClientStore, client: int, *more: Any) -> Any:
        return as_client(client, lambda: evaluate(network, clients, client, *more))

    def told(path: Path, *arguments: Any, **named: Any) -> Any:
        sys.audit("open", str(path), "r", 0)
        return safe_open(path, *arguments, **named)

    Client.update, store.safe_open, local.TrainAlone.report = updating, told, training_alone
    holdout.evaluate_holdout = evaluating
    sys.addaudithook(hook)
    compute = Compute.model_validate({"engine": engine, "workers": 2, "device": "cpu"})
    data = FederatedData(dataset=test.parent, clients=shards)
    if strategy == "alone":
        alone = local.LocalExperiment(model=Given(given=Logistic()), federated=settings_of(), compute=compute)
        local.run(alone, data.dataset, data.clients)
        return
    if strategy == "held out":
        evaluate_holdouts(experiment_of(model=Logistic(), compute=compute), data, start_of(Logistic()))
        return
    if strategy == "a curious server":
        store.open_store(shards.resolve()).examples(3)
        strategy = "fedavg"
    federate(
        shards, test, states=states, strategy=strategy, rounds=3, clients_per_round=3, evaluate_clients=True,
        compute=compute,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
