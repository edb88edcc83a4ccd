"""What the parameters would cost in privacy, and what noise they would take, without a training."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedpipe.federated.mechanisms.base import Guarantee
from fedpipe.models.parameters import skeleton, trained_names
from fedpipe.pipeline import Pipeline, spec_of
from fedpipe.system.errors import ParameterError


@dataclass(frozen=True)
class Cost:
    """What clients are promised, and what it takes."""

    mechanism: str
    guarantee: Guarantee
    clients: int
    clients_per_round: int
    noise_norm: float | None  # about that of the noise on a round's mean update; None if the model is not known yet

    def as_json(self) -> dict[str, Any]:
        """Return all of it, with epsilon after some rounds."""
        return {
            "mechanism": self.mechanism,
            "clients": self.clients,
            "clients_per_round": self.clients_per_round,
            "rounds": self.guarantee.rounds,
            **self.guarantee.figures(),
            "clip": self.guarantee.clip,
            "noise_norm": self.noise_norm,
            "after": [dict(zip(("round", "epsilon_rdp", "epsilon_pld"), row, strict=True)) for row in self._rows()],
        }

    def as_table(self) -> Group:
        """Return it for people."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        rows = [*self._rows()]
        both = rows[-1][-1] is not None
        for heading in ("after round", "epsilon by RDP", *(["epsilon by PLD"] if both else [])):
            table.add_column(heading, justify="right", no_wrap=True)
        for round, *epsilons in rows:
            table.add_row(f"{round:,}", *(f"{epsilon:.3f}" for epsilon in epsilons if epsilon is not None))
        return Group(table, *(Text(line) for line in self._lines()))

    def _rows(self) -> Iterator[tuple[int, float, float | None]]:
        for round in shown(self.guarantee.rounds):
            yield round, self.guarantee.epsilon_rdp(round), self.guarantee.epsilon_pld(round)

    def _lines(self) -> Iterator[str]:
        promise, cohort = self.guarantee, self.clients_per_round
        yield (
            f"Mechanism {self.mechanism}, {self.clients:,} clients, {cohort:,} a round: noise multiplier "
            f"{promise.noise_multiplier:.4g}, delta {promise.delta:.3g}."
        )
        if self.noise_norm is not None:
            yield (
                f"Noise on a round's mean update: its norm is about {self.noise_norm:.3g}, or "
                f"{self.noise_norm / promise.clip:.3g} times the clip, which is {promise.clip:g} for each update."
            )
        yield ""
        yield (
            f"Whatever all {promise.rounds:,} rounds release is at most e^{promise.epsilon:.3g} = "
            f"{_power(promise.epsilon)} times as likely with the examples of any one client as without them, and the "
            f"other way round, but for a chance of {promise.delta:.2g}."
        )


def of(pipeline: Pipeline, rounds: int | None = None) -> Cost:
    """Return what the parameters would cost.

    Args:
        pipeline: the parameters.
        rounds: planned in place of `federated.rounds`, if given.

    Raises:
        ParameterError: they promise nothing, or what they promise cannot be kept for so many rounds.
    """
    federated, clients = pipeline.federated, pipeline.partition.clients
    if rounds is not None:
        federated = federated.model_copy(update={"rounds": rounds})
    guarantee = federated.guarantee(clients)
    if guarantee is None:
        raise ParameterError("federated.privacy", "none: clients are promised nothing; gaussian or tree would do")
    name = str(federated.privacy)
    spec = spec_of(pipeline)
    if spec is None:
        return Cost(name, guarantee, clients, federated.clients_per_round, None)
    network = skeleton(pipeline.model.model.on(spec))
    at_home = federated.algorithm.stays_at_home(network)
    numbers = sum(network.get_parameter(one).numel() for one in trained_names(network) if one not in at_home)
    # Of one node, where the noise is that of a tree. The norm of d Gaussian numbers is about sqrt(d).
    noise = guarantee.noise_on_updates * guarantee.clip * math.sqrt(numbers) / federated.clients_per_round
    return Cost(name, guarantee, clients, federated.clients_per_round, noise)


def shown(rounds: int) -> list[int]:
    """Return the rounds that a table shows: 1, 2, 5, 10, 20, 50, ... and the last."""
    series = (digit * 10**power for power in range(len(str(rounds))) for digit in (1, 2, 5))
    return [*(number for number in series if number < rounds), rounds]


def _power(epsilon: float) -> str:
    value = math.exp(min(epsilon, 700.0))
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
