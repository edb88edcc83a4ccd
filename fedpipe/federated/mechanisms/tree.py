"""DP-FTRL: the noise of running sums, for cohorts that nobody needs to draw at random."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedpipe.federated.context import ServerContext
from fedpipe.federated.mechanisms.accounted import Accounted
from fedpipe.federated.mechanisms.clipped import ClippedMechanism, ClippedSum, sigma

EPOCH, RELEASED = "epoch", "released"  # what the state holds beside the nodes by their levels


class Tree(ClippedMechanism):
    """The mechanism tree adds noise to the running sums of clipped updates, by a binary tree for each epoch.

    The noise of a running sum of t rounds is that of at most log2(t) + 1 nodes, where noise on each round would be that
    of t. A client takes part at most once an epoch, and nothing depends on who is drawn when: DP-FTRL, Kairouz et al.
    2021, arXiv:2103.00039, algorithm 1. docs/privacy.md says what is promised.
    """

    block = "tree"
    sampling, draws = "shuffled", "no client takes part twice in an epoch"

    def guarantee(self, clients: int, clients_per_round: int, rounds: int) -> Accounted:
        per_epoch, delta = max(1, clients // clients_per_round), self.delta_of(clients)
        z = self.multiplier(_event, per_epoch, rounds, delta)
        return Accounted(rounds, z, delta, self.clip, z, partial(_event, per_epoch, z))

    def aggregator(self, chosen: object, clients_per_round: int, rounds: int) -> "TreeSum":
        return TreeSum(mechanism=self, clients_per_round=clients_per_round, rounds=rounds, clip=self.clip)


def _event(per_epoch: int, noise_multiplier: float, rounds: int) -> Any:
    from fedpipe.privacy.accountant import tree_rounds

    return tree_rounds(noise_multiplier, per_epoch, rounds)


class TreeSum(ClippedSum):
    """Release what a round adds to the running sum, and how the noise of the running sum changes.

    Node (level, i) stands for the rounds i 2**level + 1 to (i + 1) 2**level of an epoch. The noise of the sum of t
    rounds is that of the nodes that these rounds are made of, one for each binary digit 1 of t. From t - 1 to t, one
    node begins, and takes the place of those of all lower levels. The server remembers the nodes in use. A round that
    is skipped, as secure aggregation may void one, releases nothing and does not count.
    """

    def noise_on_updates(self, context: ServerContext) -> Tensor:
        per_epoch = max(1, context.clients // self.clients_per_round)
        epoch = torch.tensor((context.round - 1) // per_epoch)
        if not torch.equal(context.state.get(EPOCH, torch.tensor(-1)), epoch):  # a new tree; what the last added stays
            context.state.clear()
            context.state.update({EPOCH: epoch, RELEASED: torch.tensor(0)})
        context.state[RELEASED] = context.state[RELEASED] + 1
        t = int(context.state[RELEASED])
        level = (t & -t).bit_length() - 1  # of the node that begins
        ended = [context.state.pop(str(lower)) for lower in range(level)]
        z = self.promised(context).noise_on_updates
        node = self.noise(sigma(z, self.clip), context.dimension, "privacy noise of a node", context)
        context.state[str(level)] = node
        return sum((-noise for noise in ended), node)
