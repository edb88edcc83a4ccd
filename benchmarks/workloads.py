"""The workloads on which engines are compared, the same for all of them.

Names sizes only: it neither loads data nor builds models, so that a peer's runner can import it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One local epoch of plain SGD on each client of the cohort, then their average; IID clients of equal size."""

    name: str
    model: str
    clients: int
    per_client: int  # examples
    cohort: int
    batch_size: int
    lr: float = 0.05
    rounds: int = 25  # that a benchmark times, so that a run takes seconds, not minutes

    @property
    def examples_per_round(self) -> int:
        return self.cohort * self.per_client

    @property
    def steps_per_round(self) -> int:
        return self.cohort * -(-self.per_client // self.batch_size)  # the last batch of a client may be short


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("seed", "reference-cnn", clients=8, per_client=7500, cohort=4, batch_size=100, rounds=4),
        Workload("paper", "reference-cnn", clients=100, per_client=600, cohort=10, batch_size=10, rounds=8),
        Workload("mlp", "2nn", clients=100, per_client=600, cohort=10, batch_size=10),
        Workload("tiny", "2nn", clients=1000, per_client=60, cohort=100, batch_size=10),
        Workload("big", "paper-cnn", clients=100, per_client=600, cohort=10, batch_size=10, rounds=4),
    )
}
