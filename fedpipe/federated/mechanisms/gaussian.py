"""The Gaussian mechanism on each round by itself."""

import math
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.aggregation.mean import ExactSum
from fedpipe.federated.context import ServerContext
from fedpipe.federated.mechanisms.accounted import LARGEST_MULTIPLIER, Accounted
from fedpipe.federated.mechanisms.clipped import (
    LARGEST_CLIP,
    SMALLEST_CLIP,
    ClippedMechanism,
    ClippedSum,
    sigma,
)
from fedpipe.federated.messages import Aggregate, State, Update
from fedpipe.system.errors import ParameterError

HALF = 2**25  # a client's bit is HALF or -HALF, in units of 2**-26
LARGEST_NOISE_ON_BITS = 10_000.0
BELOW = "sums/below"  # the name of the sum of bits


class Gaussian(ClippedMechanism):
    """The mechanism gaussian adds Gaussian noise to the sum of each round's clipped updates.

    It is user-level DP-FedAvg with a fixed denominator: McMahan et al. 2018, arXiv:1710.06963, algorithm 1, estimator
    f_f. With a quantile, the clip adapts: Andrew et al. 2021, arXiv:1905.03871, algorithm 1. docs/privacy.md says what
    is promised.
    """

    block = "gaussian"
    sampling, draws = "poisson", "each client is drawn independently of the others"

    quantile: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="The clip adapts to this quantile of the norms of clients' updates, as 0.5 to their median. null "
        "keeps it as it is.",
    )
    quantile_lr: PositiveFloat = Field(
        default=0.2,
        description="How fast the clip adapts: it is multiplied by exp(-quantile_lr (b - quantile)) after a round in "
        "which a part b of the updates was below it.",
    )
    quantile_noise: Annotated[float, Field(gt=0, le=LARGEST_NOISE_ON_BITS)] | None = Field(
        default=None,
        description="The standard deviation of the noise on the number of clients below the clip, by which it adapts; "
        "null is a 20th of clients_per_round.",
    )

    def check(self, clients: int, clients_per_round: int, rounds: int) -> None:
        super().check(clients, clients_per_round, rounds)
        if self.quantile is None:
            return
        promised, noise = self.guarantee(clients, clients_per_round, rounds), self.noise_on_bits(clients_per_round)
        z = promised.noise_multiplier
        if promised.noise_on_updates > LARGEST_MULTIPLIER:
            raise ParameterError(
                f"federated.{self.block}.quantile_noise",
                f"{noise:g}: both sums are one release with the noise multiplier {z:g}, so that it must be more than "
                f"half of that; {z:.3g} would do, or more clients_per_round",
            )

    def guarantee(self, clients: int, clients_per_round: int, rounds: int) -> Accounted:
        probability, delta = clients_per_round / clients, self.delta_of(clients)
        z = on_updates = self.multiplier(_event, probability, rounds, delta)
        if self.quantile is not None:
            on_updates = noise_multiplier_of_updates(z, self.noise_on_bits(clients_per_round))
        return Accounted(rounds, z, delta, self.clip, on_updates, partial(_event, probability, z))

    def noise_on_bits(self, clients_per_round: int) -> float:
        """Return the standard deviation of the noise on the sum of bits, σ_b."""
        if self.quantile_noise is None:
            return min(clients_per_round / 20, LARGEST_NOISE_ON_BITS)
        return self.quantile_noise

    def aggregator(self, chosen: object, clients_per_round: int, rounds: int) -> "GaussianSum":
        return GaussianSum(
            mechanism=self, clients_per_round=clients_per_round, rounds=rounds, clip=self.clip, quantile=self.quantile,
            quantile_lr=self.quantile_lr, noise_on_bits=self.noise_on_bits(clients_per_round),
        )  # fmt: skip


def noise_multiplier_of_updates(noise_multiplier: float, quantile_noise: float) -> float:
    """Return the noise multiplier of the sum of updates if a sum of bits is released with it.

    Together they cost what `noise_multiplier` says: z_Δ = (z^-2 - (2 σ_b)^-2)^(-1/2). The bits, of which each client
    has one, are 1/2 or -1/2, so that their sum has the noise multiplier 2 σ_b. It is infinite if that sum alone costs
    as much.

    Args:
        noise_multiplier: of both sums as one release, z.
        quantile_noise: the standard deviation of the noise on the sum of bits, σ_b.

    References:
        Andrew et al. 2021, arXiv:1905.03871, theorem 1.
    """
    left = noise_multiplier**-2 - (2 * quantile_noise) ** -2
    return left**-0.5 if left > 0 else math.inf


def _event(probability: float, noise_multiplier: float, rounds: int) -> Any:
    from fedpipe.privacy.accountant import gaussian_rounds

    return gaussian_rounds(probability, noise_multiplier, rounds)


class GaussianSum(ClippedSum):
    """Release a round's sum with noise of its own, and with it, if the clip adapts, how many clients were below it."""

    quantile: float | None = Field(description="that the clip adapts to")
    quantile_lr: float = Field(description="how fast")
    noise_on_bits: float = Field(description="the standard deviation of the noise on the sum of bits")

    def broadcast(self, state: State) -> State:
        if self.quantile is None:
            return {}
        return {"clip": state.get("clip", torch.tensor(self.clip, dtype=torch.float64))}

    def in_round(self, received: State) -> Self:
        return self.model_copy(update={"clip": float(received["clip"])}) if "clip" in received else self

    def contribution(self, update: Update) -> ExactSum:
        one = super().contribution(update)
        if self.quantile is None:
            return one
        bit = HALF if update.norm() <= self.clip else -HALF
        vectors = {**one.vectors, BELOW: torch.tensor([bit])}
        units = {**one.units, BELOW: 0.5 / HALF}
        return ExactSum(vectors, units, one.scalars, one.weight, max(one.largest, HALF))

    def result(self, total: ExactSum, context: ServerContext) -> Aggregate:
        if self.quantile is not None:
            context.state["clip"] = torch.tensor(self._next_clip(total, context), dtype=torch.float64)
        return super().result(total, context)

    def noise_on_updates(self, context: ServerContext) -> Tensor:
        z = self.promised(context).noise_on_updates
        return self.noise(sigma(z, self.clip), context.dimension, "privacy noise", context)

    def _next_clip(self, total: ExactSum, context: ServerContext) -> float:
        """Return C exp(-η (b - γ)), with b the noisy fraction of clients that were below the clip C."""
        assert self.quantile is not None, "the clip adapts"
        bits = int(total.vectors[BELOW]) if BELOW in total.vectors else 0
        noise = math.ceil(2 * HALF * self.noise_on_bits) + 1
        bits += int(self.noise(noise, 1, "privacy noise on the quantile", context))
        below = bits / (2 * HALF) / self.clients_per_round + 0.5
        factor = math.exp(-self.quantile_lr * (below - self.quantile))
        return min(max(self.clip * factor, SMALLEST_CLIP), LARGEST_CLIP)
