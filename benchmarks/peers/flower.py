"""The same workloads by Flower's simulation engine: a ClientApp and a ServerApp with FedAvg, a CPU of Ray a client.

It adds only a count of what was trained and the time at which each round ended.
"""

import functools
import logging
import os
from collections.abc import Iterable
from pathlib import Path

# Before the imports that read them: no usage statistics, from here or from the workers.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.common import Tally, accuracy, arguments, load, report, train_one_epoch
from benchmarks.peers.models import build
from benchmarks.workloads import WORKLOADS

client_app = ClientApp()
worker_model = functools.cache(build)  # one for each worker process: a client's weights replace it anyway


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client of this node; runs in a worker of Ray."""
    torch.set_num_threads(1)
    config = message.content["config"]
    workload = WORKLOADS[config["workload"]]
    clients, _ = load(Path(config["data"]), workload)
    model = worker_model(workload.model)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    examples, steps = train_one_epoch(model, *clients[context.node_config["partition-id"]], workload)
    metrics = MetricRecord({"num-examples": examples, "steps": steps})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


class TimedFedAvg(FedAvg):
    """Run FedAvg, weighted by examples as it is by default; count the replies and note the end of each round."""

    def __init__(self, tally: Tally, cohort: int, clients: int) -> None:
        super().__init__(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        self.tally = tally

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        aggregated = super().aggregate_train(server_round, replies)
        self.tally.end_round()
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
            self.tally.add(int(reply.content["metrics"]["num-examples"]), int(reply.content["metrics"]["steps"]))
        return aggregated


def main() -> None:
    workload, data, rounds, _ = arguments(__doc__)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.manual_seed(0)
    tally = Tally()
    model = build(workload.model)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        result = TimedFedAvg(tally, workload.cohort, workload.clients).start(
            grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=rounds,
            train_config=ConfigRecord({"workload": workload.name, "data": str(data)}),
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=workload.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    _, test = load(data, workload)
    report("flower", workload, 1, tally, accuracy(model, *test))


if __name__ == "__main__":
    # Under its own name, so that Ray's workers import this module and keep what it caches.
    from benchmarks.peers import flower

    flower.main()
