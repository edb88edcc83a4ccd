"""A client: from what the server sends to an update. It reads its own examples and its own state, nothing else."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedpipe.data.store import ClientStore, open_store
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.attacks.collusion import Collusion
from fedpipe.federated.context import ArrivalContext, ClientContext, LocalResult, copied
from fedpipe.federated.holdout import evaluate_holdout
from fedpipe.federated.messages import Broadcast, ClientReport, Task, Update
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ClientStates
from fedpipe.federated.strategies.base import Strategy
from fedpipe.federated.transforms.base import Chain
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import Parameters, scratch_network_with, skeleton, trained_names, vector_of
from fedpipe.system.randomness import generator
from fedpipe.training.arithmetic import PLAIN, Arithmetic
from fedpipe.training.evaluation import evaluate
from fedpipe.training.loop import MeanGradient, loss_and_gradients, train

STRATEGY, AT_HOME = "strategy", "stays at home"  # the parts of a client's state besides its transforms'


@dataclass(frozen=True)
class Layout:
    """What the vectors of a network hold."""

    shapes: Mapping[str, torch.Size]  # of the trained parameters, in their order
    at_home: frozenset[str]  # names of parameters and buffers that stay with the client

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The names of the trained parameters."""
        return tuple(self.shapes)

    @cached_property
    def lengths(self) -> Mapping[str, int]:
        """How many numbers each trained parameter has."""
        return {name: shape.numel() for name, shape in self.shapes.items()}

    @cached_property
    def shared(self) -> Mapping[str, torch.Size]:
        """The shapes of the trained parameters that clients send."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.at_home}

    @property
    def dimension(self) -> int:
        """The length of the vectors that clients send."""
        return sum(shape.numel() for shape in self.shared.values())


@dataclass(frozen=True)
class Client:
    """What all clients have in common: the algorithm, and where a client's device keeps its examples and its state."""

    settings: Federated
    architecture: Architecture
    seed: int
    store: Path  # of examples, as `fedpipe.data.store` writes it
    states: Path  # of client states
    clients: int  # how many there are
    arithmetic: Arithmetic = PLAIN

    def update(self, broadcast: Broadcast, task: Task) -> Update:
        """Train as client k: ClientUpdate(k, w), local epochs of minibatch training from the server's model.

        References:
            McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
        """
        strategy, round, k = self._strategy, broadcast.round, task.client
        store, spec, device = self._store, self.architecture.spec, self.arithmetic.torch_device()
        images, labels = store.examples(k, device)
        state = self._states.read(k, task.last_round) if self._has_state else {}
        home = state.get(AT_HOME, {})
        parameters = {**broadcast.parameters, **home}

        network, layout = self._network(parameters), self.layout
        accuracy_before = self._accuracy_on_held_out(store, k, network)
        local = self.settings.local.in_round(round).model_copy(update={"epochs": task.epochs})
        context = ClientContext(
            round, k, task.client_weight, strategy.local_training(local),
            start=vector_of(network) if home else broadcast.vector(layout.trained),
            received=broadcast.extra,
            start_loss=lambda: evaluate(self._network(parameters, "loss at the start"), images, labels, spec).loss,
            seed=self.seed,
            state=copied(state, STRATEGY),
        )  # fmt: skip
        mean_gradient = MeanGradient() if strategy.observes_gradients else None
        hostile = k in self.hostile
        seen = images, labels  # what it trains on
        if hostile:
            seen = self._attack.poison(images, labels, spec.classes, context.generator("attack on examples"))
        *_, train_loss = train(
            network, *seen, spec, context.training, generator(self.seed, "batches", round=round, client=k),
            self.arithmetic, strategy.correction(context), mean_gradient,
            strategy.gradients(context) or loss_and_gradients,
        )  # fmt: skip

        result = LocalResult(
            delta=vector_of(network).sub_(context.start),
            steps=context.training.steps(len(labels)),
            mean_gradient=mean_gradient and mean_gradient.flat(),
        )
        buffers = {name: after.cpu() - parameters[name] for name, after in network.named_buffers()}
        home = {name: network.state_dict()[name].cpu().clone() for name in layout.at_home}
        # In float32, whatever the precision of training.
        trained = evaluate(network, images, labels, spec) if self.settings.evaluate_clients else None
        report = ClientReport(
            round, k, len(labels), context.training.epochs,
            train_loss if self.settings.reports else None,
            loss=trained and trained.loss,
            accuracy=trained and trained.accuracy,
            held_out=store.held_out_size(k),
            holdout_accuracy_before=accuracy_before,
            holdout_accuracy=self._accuracy_on_held_out(store, k, network),
            update_norm=0.0 if self.settings.reports else None,
        )  # fmt: skip
        update = strategy.on_client(Update(k, task.weight, report, result.delta, buffers), context, result)
        update, context = _without(layout.at_home, update, context, layout.lengths)
        if hostile:
            update = self._attack.on_client(update, context)
        update, transform_states = self._transforms.on_client(update, context, state, hostile=hostile)
        new = {STRATEGY: context.state, AT_HOME: home, **transform_states}
        if self._has_state:
            self._states.write(k, round, new, last_round=task.last_round, oldest_round=int(broadcast.oldest_round))
        else:
            assert not any(new.values()), "a strategy or transform with client state says so: has_client_state"
        return update

    def arrived(self, update: Update, round: int) -> Update:
        """Return what an update holds, decoded, where it arrives."""
        context = ArrivalContext(round, update.client, self.seed, self.layout.dimension)
        return self._transforms.on_arrival(update, context)

    def sent(self, broadcast: Broadcast) -> Broadcast:
        """Return a broadcast as the server sends it to the clients, encoded."""
        return self.settings.down_link.encoded(broadcast, self.layout.shared, self.seed)

    def received(self, broadcast: Broadcast) -> Broadcast:
        """Return a broadcast as it is to those it was sent to, decoded."""
        return self.settings.down_link.decoded(broadcast, self.layout.shared, self.seed)

    def typical(self, broadcast: Broadcast) -> Update:
        """Return an update of random numbers, of nobody: as long as any client's, and it tells of none."""
        start, training = torch.zeros(self.layout.dimension), self.settings.local
        context = ClientContext(broadcast.round, 0, 0.0, training, start, {}, lambda: 0.0, self.seed)
        delta = torch.from_numpy(context.generator("typical update").standard_normal(len(start), dtype=np.float32))
        report = ClientReport(broadcast.round, 0, 0, 0, None, None, None, 0, None, None, None)
        return self._transforms.on_client(Update(0, 0.0, report, delta), context, {})[0]

    def aggregator(self, broadcast: Broadcast) -> Aggregator:
        """Return what adds the updates of a round up; colluding attackers see them before it does."""
        aggregator = self.settings.aggregator.in_round(broadcast.aggregation)
        if not (self.hostile and self._attack.colludes):
            return aggregator
        return Collusion(aggregator=aggregator, attack=self._attack, hostile=self.hostile)

    @cached_property
    def hostile(self) -> frozenset[int]:
        """The hostile clients."""
        return self.settings.hostile(self.seed, self.clients)

    @cached_property
    def _attack(self) -> Attack:
        return self.settings.hostility

    @cached_property
    def layout(self) -> Layout:
        """What vectors hold; once made it is sent to workers with the rest."""
        network = skeleton(self.architecture)
        shapes = {name: network.get_parameter(name).shape for name in trained_names(network)}
        return Layout(shapes, frozenset(self._strategy.stays_at_home(network)))

    @cached_property
    def _strategy(self) -> Strategy:
        return self.settings.algorithm

    @cached_property
    def _transforms(self) -> Chain:
        return self.settings.chain

    @cached_property
    def _store(self) -> ClientStore:
        return open_store(self.store)

    @cached_property
    def _has_state(self) -> bool:
        return self.settings.has_client_state

    @cached_property
    def _states(self) -> ClientStates:
        return ClientStates(self.states)

    def _network(self, parameters: Parameters, purpose: str = "training") -> nn.Module:
        return scratch_network_with(self.architecture, parameters, self.arithmetic.torch_device(), purpose=purpose)

    def _accuracy_on_held_out(self, store: ClientStore, client: int, network: nn.Module) -> float | None:
        """Return the network's accuracy on the examples that the client tests on; None where there are none."""
        if not self.settings.evaluate_clients:
            return None
        return evaluate_holdout(network, store, client, self.architecture.spec, self.arithmetic).accuracy


def _without(
    at_home: Collection[str], update: Update, context: ClientContext, lengths: Mapping[str, int]
) -> tuple[Update, ClientContext]:
    """Return the update, and the context for what happens to it, without what stays at home.

    Args:
        at_home: names of parameters and buffers.
        update: of all parameters and buffers.
        context: likewise.
        lengths: of the parameters, in the order in which vectors hold them.
    """
    if not at_home:
        return update, context

    def away(vector: Tensor) -> Tensor:
        pieces = zip(lengths, vector.split([*lengths.values()]), strict=True)
        return torch.cat([piece for name, piece in pieces if name not in at_home])

    buffers = {name: tensor for name, tensor in update.buffers.items() if name not in at_home}
    sums = {name: away(vector) for name, vector in update.sums.items()}
    update = replace(update, delta=away(update.delta), buffers=buffers, sums=sums)
    return update, replace(context, start=away(context.start))
