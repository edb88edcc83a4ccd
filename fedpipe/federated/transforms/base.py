"""What every transform is, and the chain of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedpipe.config.section import Section
from fedpipe.federated.context import ArrivalContext, ClientContext, ServerContext, copied
from fedpipe.federated.messages import Aggregate, State, Update


class Transform(Section):
    """Change what a client sends, and what the server makes of the aggregate. Its fields are its parameters.

    It acts on the client between training and the sum, and on the server between the sum and the strategy's step.
    Either side may remember tensors from round to round, in the `state` of its context. What the client encodes, it
    decodes where the update arrives, before it is added up.
    """

    has_client_state: ClassVar[bool] = False  # whether clients remember anything from round to round
    voluntary: ClassVar[bool] = False  # whether a hostile client leaves it out, since nobody could tell

    def on_client(self, update: Update, context: ClientContext) -> Update:
        """Return the update that is sent in place of this one."""
        return update

    def on_arrival(self, update: Update, context: ArrivalContext) -> Update:
        """Return the update that is added up in place of this one, which has arrived."""
        return update

    def on_server(self, aggregate: Aggregate, context: ServerContext) -> Aggregate:
        """Return the aggregate that the strategy takes in place of this one."""
        return aggregate


@dataclass(frozen=True)
class Chain:
    """Transforms by name: on a client they act in this order, on the server in reverse."""

    transforms: Mapping[str, Transform]

    def on_client(
        self, update: Update, context: ClientContext, states: Mapping[str, State], *, hostile: bool = False
    ) -> tuple[Update, dict[str, State]]:
        """Return the update to send, and each transform's new client state, from the old ones.

        A hostile client leaves out what is voluntary.
        """
        new: dict[str, State] = {}
        for name, transform in self.transforms.items():
            if hostile and transform.voluntary:
                continue
            state: dict[str, Tensor] = copied(states, name)
            update = transform.on_client(update, context.with_state(state))
            new[name] = state
        return update, new

    def on_arrival(self, update: Update, context: ArrivalContext) -> Update:
        """Return what is added up of an update that has arrived."""
        for transform in reversed([*self.transforms.values()]):
            update = transform.on_arrival(update, context)
        return update

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
