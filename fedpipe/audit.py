"""Attack a training to see whether it keeps its promise of privacy: an attacker looks for canaries in the model.

Some or all clients are canaries. A fair coin each decides whether a canary takes part. If it does, it sends a direction
of its own, as long as the clip permits, whenever it is drawn; if it does not, it sends zeros, which is what a client
amounts to that is not there. The attacker knows all directions, and guesses the coins by how far the model has moved
along each. How many guesses are right gives a lower bound of epsilon, which is below the one that is promised, but for
a small chance.

References:
    Steinke, Nasr & Jagielski 2023, arXiv:2305.08846. Gradients that point in random directions are the "Dirac"
    canaries of Nasr et al. 2023, arXiv:2302.07956, in other coordinates.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.data.datasets import describe
from fedpipe.data.store import open_store
from fedpipe.experiment import Experiment, FederatedData, iterate
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.context import ClientContext
from fedpipe.federated.messages import Update
from fedpipe.models.parameters import flat, initial_parameters, skeleton, trained_names
from fedpipe.privacy.audit import epsilon_lower_bound, guessed
from fedpipe.system.errors import ParameterError
from fedpipe.system.randomness import generator


@dataclass(frozen=True)
class Audit:
    """What an attack on a training came to."""

    epsilon: float | None  # that is promised; None if nothing is
    delta: float
    canaries: int
    guesses: int
    correct: int
    confidence: float  # fraction
    lower_bound: float  # of epsilon, at this delta and confidence

    def lines(self) -> list[str]:
        """Return what people want to know of it."""
        promised = "nothing is promised" if self.epsilon is None else f"promised: epsilon {self.epsilon:.3g}"
        return [
            f"{self.correct:,} of {self.guesses:,} guesses about {self.canaries:,} canaries are right",
            f"attack:   epsilon is at least {self.lower_bound:.3g}, at delta {self.delta:.2g}, with a confidence of "
            f"{self.confidence:.0%}",
            promised,
        ]


class Canary(Attack):
    """Send a direction of one's own, or zeros, in place of an update."""

    norm: float = Field(description="of what is sent")

    def on_client(self, update: Update, context: ClientContext) -> Update:
        sent = direction(context.seed, context.client, len(update.delta)) * self.norm
        return replace(update, delta=(sent if takes_part(context.seed, context.client) else torch.zeros_like(sent)))


def attack(
    experiment: Experiment,
    data: FederatedData,
    *,
    canaries: float = 1.0,
    guesses: float = 0.5,
    norm: float = 1.0,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> Audit:
    """Train with canaries among the clients, and guess which of them took part.

    Args:
        experiment: its parameters, with or without a mechanism of privacy, and without an attack.
        data: its data.
        canaries: which part of the clients are canaries, drawn at random; 0 to 1. With 1, nothing but canaries and
            noise moves the model, as if the attacker knew what all other clients send: the strongest attack. With less,
            the attacker knows none of that.
        guesses: of which part of the canaries to guess, those whose scores are the highest or the lowest; 0 to 1. Half
            of the guesses are that one took part, although coins seldom come to a half, so that 1 is too much.
        norm: of what canaries send, where no mechanism clips it; with one, they send much longer ones.
        delta: for the bound, where no mechanism has one.
        confidence: that the true epsilon is no smaller than the bound.

    Raises:
        UserError: as `fedpipe.experiment.run`.
    """
    if experiment.federated.attack != "none":
        raise ParameterError(
            "federated.attack", f"{experiment.federated.attack}: canaries take the place of attackers; none would do"
        )
    clients = len(open_store(data.clients.resolve()))
    promised = experiment.federated.guarantee(clients)
    sent = norm if promised is None else 1e6 * promised.clip  # which is clipped, also if the clip adapts
    settings = experiment.federated.model_copy(update={"attack": Canary(norm=sent), "attackers": canaries})
    *_, (state, _) = iterate(experiment.model_copy(update={"federated": settings}), data)

    architecture = experiment.model.model.on(describe(data.dataset / "dataset.json").spec)
    start, network = initial_parameters(architecture, experiment.seed), skeleton(architecture)
    at_home = settings.algorithm.stays_at_home(network)
    names = [name for name in trained_names(network) if name not in at_home]
    moved = flat(state.parameters[name].double() - start[name].double() for name in names)  # w_T - w_0

    hostile = sorted(settings.hostile(experiment.seed, clients))
    included = np.array([takes_part(experiment.seed, client) for client in hostile], bool)
    scores = np.array([float(moved @ direction(experiment.seed, client, len(moved)).double()) for client in hostile])
    made, correct = guessed(scores, included, int(guesses * len(hostile)))
    at = delta if promised is None else promised.delta
    return Audit(
        promised and promised.epsilon, at, len(hostile), made, correct, confidence,
        epsilon_lower_bound(len(hostile), made, correct, at, confidence),
    )  # fmt: skip


def takes_part(seed: int, client: int) -> bool:
    """Toss a canary's coin."""
    return bool(generator(seed, "canary's coin", client=client).random() < 0.5)


def direction(seed: int, client: int, dimension: int) -> Tensor:
    """Draw a canary's direction: (d,) float32 with norm 1, uniformly."""
    drawn = torch.from_numpy(generator(seed, "canary's direction", client=client).standard_normal(dimension))
    return (drawn / torch.linalg.vector_norm(drawn)).float()
