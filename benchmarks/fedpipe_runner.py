"""The workloads by fedpipe itself: its round loop and engines, with clients' examples on disk.

It adds only a count of what was trained and the time at which each round ended.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.peers.common import Tally, report
from benchmarks.workloads import WORKLOADS, Workload
from fedpipe.engines import Compute
from fedpipe.experiment import Experiment, FederatedData, iterate
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.messages import ClientReport
from fedpipe.federated.settings import Federated
from fedpipe.models.settings import ModelChoice
from fedpipe.system.machine import cores


def main() -> None:
    """Run a workload as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("folder", type=Path, help="with shards/, test.safetensors and dataset.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of a Ray cluster that share the workers' cores")
    given = parser.parse_args()
    workers = given.workers or cores()
    with cluster(given.nodes, workers // given.nodes) if given.nodes > 1 else nullcontext() as address:
        compute = Compute.model_validate(
            {
                "engine": given.engine, "workers": workers, "ray_address": address,
                "precision": given.precision, "device": "cpu",
            }
        )  # fmt: skip
        federate(WORKLOADS[given.workload], given.folder, given.rounds, compute)


def federate(workload: Workload, folder: Path, rounds: int, compute: Compute, strategy: str = "fedavg") -> None:
    """Run rounds of the workload on the data in the folder, and print the report."""
    # No peer evaluates in its rounds: here that is done in one round more, which is not counted.
    experiment = experiment_of(workload, rounds + 1, compute, strategy)
    tally = Tally()

    def count(clients: tuple[ClientReport, ...]) -> None:
        for client in clients:
            if client.round <= rounds:
                tally.add(client.examples, client.epochs * -(-client.examples // workload.batch_size))

    with tempfile.TemporaryDirectory(dir=folder) as states:
        for _, done in iterate(experiment, data_in(folder), states=Path(states), on_clients=count):
            if done.test is None:
                tally.end_round()
            else:
                workers = 0 if compute.workers == "auto" else compute.workers
                report(f"fedpipe {compute.engine} {compute.precision}", workload, workers, tally, done.test.accuracy)


def experiment_of(workload: Workload, rounds: int, compute: Compute, strategy: str = "fedavg") -> Experiment:
    """Return rounds of the workload as an experiment that evaluates only its last model."""
    settings = Federated(
        rounds=rounds,
        evaluate_every=rounds,
        evaluate_clients=False,
        clients_per_round=workload.cohort,
        strategy=strategy,
        local=LocalTraining(epochs=1, batch_size=workload.batch_size, optimizer="sgd", lr=workload.lr),
    )
    return Experiment(seed=0, model=ModelChoice(name=workload.model), federated=settings, compute=compute)


def data_in(folder: Path) -> FederatedData:
    """Return the data in a folder that `benchmarks.data.write` wrote."""
    return FederatedData(dataset=folder, clients=folder / "shards")


@contextmanager
def cluster(nodes: int, cores: int) -> Iterator[str]:
    """Start a Ray cluster on this machine, of nodes with this many cores each, and yield its address."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": cores, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            started.add_node(num_cpus=cores)
        assert started.address is not None, "it has a head"
        yield started.address
    finally:
        started.shutdown()


if __name__ == "__main__":
    main()
