"""What every transform is, and the chain of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.context import ClientContext, ServerContext, copied
from fedpipe.federated.messages import Aggregate, State, Update


class Transform(Section):
    """Change what a client sends, and what the server makes of the aggregate. Its fields are its parameters.

    It acts on the client between training and the sum, and on the server between the sum and the strategy's step.
    Either side may remember tensors from round to round, in the `state` of its context.
    """

    has_client_state: ClassVar[bool] = False  # whether clients remember anything from round to round

    def on_client(self, update: Update, context: ClientContext) -> Update:
        """Return the update that is sent in place of this one."""
        return update

    def on_server(self, aggregate: Aggregate, context: ServerContext) -> Aggregate:
        """Return the aggregate that the strategy takes in place of this one."""
        return aggregate


@dataclass(frozen=True)
class Chain:
    """Transforms by name: on a client they act in this order, on the server in reverse."""

    transforms: Mapping[str, Transform]

    def on_client(
        self, update: Update, context: ClientContext, states: Mapping[str, State]
    ) -> tuple[Update, dict[str, State]]:
        """Return the update to send, and each transform's new client state, from the old ones."""
        new: dict[str, State] = {}
        for name, transform in self.transforms.items():
            state: dict[str, Tensor] = copied(states, name)
            update = transform.on_client(update, context.with_state(state))
            new[name] = state
        return update, new

    def on_server(
        self, aggregate: Aggregate, round: int, updates: int, seed: int, states: Mapping[str, State]
    ) -> tuple[Aggregate, dict[str, State]]:
        """Return the aggregate for the strategy, and each transform's new server state, from the old ones."""
        new: dict[str, State] = {}
        for name, transform in reversed([*self.transforms.items()]):
            state: dict[str, Tensor] = copied(states, name)
            aggregate = transform.on_server(aggregate, ServerContext(round, updates, seed, state))
            new[name] = state
        return aggregate, new
