"""What every strategy is."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fedpipe.models import Parameters
from fedpipe.params import Section


@dataclass(frozen=True)
class ServerState:
    """All that a round needs of the rounds before it."""

    round: int  # rounds done
    parameters: Parameters


class Strategy(Section):
    """A federated algorithm. Its fields are its parameters."""

    @abstractmethod
    def step(self, state: ServerState, aggregate: dict[str, Tensor]) -> ServerState:
        """The state after a round.

        Args:
            state: the server's before the round.
            aggregate: the clients' updates as one, float64, by parameter name.
        """
