"""Attackers that know every update of the round before they choose theirs."""

from dataclasses import replace

import torch
from pydantic import Field, InstanceOf

from fedpipe.federated.aggregation.base import Aggregator, Refused
from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ServerContext
from fedpipe.federated.messages import Aggregate, Update


class Collusion(Collecting):
    """Let attackers see all updates, and choose theirs, before the aggregator gets any.

    All updates of the round are held until then, as if attackers had listened to every line.
    """

    aggregator: InstanceOf[Aggregator] = Field(description="that the updates are for")
    attack: InstanceOf[Attack] = Field(description="of the attackers")
    hostile: frozenset[int] = Field(description="the attackers")

    def enough(self, updates: int) -> bool:
        return self.aggregator.enough(updates)

    def result(self, total: Collected, context: ServerContext) -> Aggregate:
        whole = self.aggregator.empty()
        for update, chosen in self._chosen(total.in_order()):
            try:
                whole = self.aggregator.add(whole, chosen)
            except Refused:  # attackers know that, and rather send what will be taken
                whole = self.aggregator.add(whole, update)
        return self.aggregator.result(whole, context)

    def _chosen(self, updates: list[Update]) -> list[tuple[Update, Update]]:
        """Return each update as it arrived, and what is sent in its place."""
        honest = [update for update in updates if update.client not in self.hostile]
        attackers = [update for update in updates if update.client in self.hostile]
        if not (honest and attackers):
            return [(update, update) for update in updates]
        deltas = (torch.stack([update.delta.double() for update in some]) for some in (honest, attackers))
        chosen = self.attack.collude(*deltas).to(attackers[0].delta.dtype)
        attacking = [(update, replace(update, delta=delta)) for update, delta in zip(attackers, chosen, strict=True)]
        return [(update, update) for update in honest] + attacking
