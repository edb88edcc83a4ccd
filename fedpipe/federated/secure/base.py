"""What every protocol of secure aggregation is."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fedpipe.config.section import Section
from fedpipe.engines import RunTasks
from fedpipe.federated.messages import Message, PartialSum, Update


@dataclass(frozen=True)
class Collected:
    """What the server has of a round's updates."""

    updates: PartialSum
    bytes_down: int  # of the messages to all clients of the cohort
    void: bool = False  # whether their sum cannot be known, so that the round is skipped


@dataclass(frozen=True)
class Bytes:
    """How many bytes one client is sent, besides model and task, and sends."""

    down: int
    up: int


class Mask(Protocol):
    """Hide what a client contributes to the sum. It goes to the workers that run the clients."""

    def __call__(self, client: int, contribution: Any, /) -> tuple[Message, Any]:
        """Return what a client sends in place of its update, and what is added up in place of its contribution.

        Raises:
            Refused: it sends nothing.
        """
        ...


class Train(Protocol):
    """Have clients train, and add up what they send."""

    def __call__(self, clients: Collection[int], mask: Mask | None = None, /) -> Collected:
        """Send these clients the model and their tasks, and return the sum of their updates, masked if a mask is given.

        Of some of them nothing arrives, as a cohort has it.
        """
        ...


class SecureAggregation(Section):
    """Let each update be seen where it is added up. Protocols differ from that; their fields are their parameters."""

    hides_updates: ClassVar[bool] = False

    @property
    def loses_clients(self) -> bool:
        """Whether clients drop out by a parameter of the protocol."""
        return False

    def collect(self, seed: int, round: int, cohort: Collection[int], train: Train, run_tasks: RunTasks) -> Collected:
        """Have the clients of a cohort train, and return the sum of their updates.

        Args:
            seed: the experiment's.
            round: 1, 2, ...
            cohort: the clients that are sent the model.
            train: has them train.
            run_tasks: an engine's, for what else clients do.
        """
        return train(cohort)

    def usual(self, cohort: int, dimension: int, update: Update) -> Bytes:
        """Return what one client of a cohort of this size is sent and sends.

        Args:
            cohort: how many clients it has.
            dimension: d, of the vectors that clients send.
            update: of any client.
        """
        return Bytes(0, len(update))
