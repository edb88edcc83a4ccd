"""The pieces of work on which engines are compared, one and the same for all of them.
Names sizes only: it neither loads data nor builds models."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One local epoch of plain SGD on each client of the cohort, then their average; IID clients of equal size."""

    name: str
    model: str
    clients: int
    per_client: int
    cohort: int
    batch_size: int
    lr: float = 0.05

    @property
    def examples_per_round(self) -> int:
        return self.cohort * self.per_client

    @property
    def steps_per_round(self) -> int:
        return self.cohort * -(-self.per_client // self.batch_size)  # the last batch of a client may be short


WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        Work("seed", "reference-cnn", clients=8, per_client=7500, cohort=4, batch_size=100),
        Work("paper", "reference-cnn", clients=100, per_client=600, cohort=10, batch_size=10),
        Work("mlp", "2nn", clients=100, per_client=600, cohort=10, batch_size=10),
        Work("tiny", "2nn", clients=1000, per_client=60, cohort=100, batch_size=10),
        Work("big", "paper-cnn", clients=100, per_client=600, cohort=10, batch_size=10),
    )
}
