"""Clipped updates on a grid, and noise on their sum: what the mechanisms have in common."""

import math
from abc import abstractmethod
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedpipe.config.section import PositiveFloat
from fedpipe.federated.aggregation.base import checked
from fedpipe.federated.aggregation.mean import ExactSum, Mean
from fedpipe.federated.context import ServerContext
from fedpipe.federated.mechanisms.accounted import LARGEST_MULTIPLIER, SMALLEST_MULTIPLIER, Event, noise_for
from fedpipe.federated.mechanisms.base import Guarantee, Mechanism
from fedpipe.federated.messages import Aggregate, Update
from fedpipe.privacy.noise import discrete_gaussian, reproducible, secret
from fedpipe.system.errors import ParameterError

CLIP_BITS = 30  # the largest norm of a client's whole numbers is 2**29 to 2**30
SMALLEST_CLIP, LARGEST_CLIP = 1e-9, 1e9


class ClippedMechanism(Mechanism):
    """Clip updates, add them up, add noise to the sum, and divide it by `clients_per_round`, however many answered."""

    is_private = True
    block: ClassVar[str]  # its name in params.yaml

    clip: Annotated[float, Field(ge=SMALLEST_CLIP, le=LARGEST_CLIP)] = Field(
        default=1.0,
        description="The largest L2 norm of a client's update: a longer one is scaled down where updates are added up. "
        "The noise grows with it.",
    )
    epsilon: PositiveFloat | None = Field(
        default=8.0,
        description="What all rounds may cost together, from which the noise follows. null if noise_multiplier is "
        "given.",
    )
    noise_multiplier: Annotated[float, Field(ge=SMALLEST_MULTIPLIER, le=LARGEST_MULTIPLIER)] | None = Field(
        default=None,
        description="The standard deviation of the noise on a sum of updates over clip, from which epsilon follows. "
        "null if epsilon is given.",
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="The chance with which epsilon may not hold, less than 1 / N for N clients; null is N ** -1.1.",
    )
    noise: Literal["reproducible", "secret"] = Field(
        default="reproducible",
        description="reproducible draws the noise from the seed, as all else, so that who knows the seed can subtract "
        "it. secret draws it, and who takes part, from the operating system; no run is then like another.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            if self.epsilon is None:
                raise ValueError("epsilon: neither it nor noise_multiplier is given; one of them would do")
            raise ValueError("epsilon: it and noise_multiplier are both given; null for one of them would do")
        return self

    @property
    def is_secret(self) -> bool:
        return self.noise == "secret"

    def check(self, clients: int, clients_per_round: int, rounds: int) -> None:
        delta = self.delta_of(clients)
        if delta >= 1 / clients:
            raise ParameterError(
                f"federated.{self.block}.delta",
                f"{delta:g}: a mechanism that publishes one of the {clients} clients whole would satisfy it; less than "
                f"1 / {clients}, or null, would do",
            )
        if self.guarantee(clients, clients_per_round, rounds).noise_multiplier > LARGEST_MULTIPLIER:
            raise ParameterError(
                f"federated.{self.block}.epsilon",
                f"{self.epsilon:g}: it takes noise of more than {LARGEST_MULTIPLIER:g} times the clip; a larger one, "
                "fewer rounds, or more clients would do",
            )

    @abstractmethod
    def guarantee(self, clients: int, clients_per_round: int, rounds: int) -> Guarantee: ...

    def multiplier(self, event: Event, draws: float, rounds: int, delta: float) -> float:
        """Return the noise multiplier: the one that is given, or the one that epsilon asks for.

        Args:
            event: of the mechanism.
            draws: how clients are drawn, as the event takes it.
            rounds: planned.
            delta: of the promise.
        """
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None, "one of both is given"
        return noise_for(event, draws, rounds, self.epsilon, delta)

    def delta_of(self, clients: int) -> float:
        """Return delta for this many clients. The default is that of McMahan et al. 2018, arXiv:1710.06963, table 1."""
        return clients**-1.1 if self.delta is None else self.delta


class ClippedSum(Mean):
    """Add up clipped updates as whole numbers. Mechanisms differ in the noise that the sum is released with.

    A unit is a power of two for which the clip is 2**29 to 2**30 units. Numbers are truncated towards zero, so that
    they get no longer: the norm of a client's vector of whole numbers is at most clip / unit, exactly.
    """

    counts_nobody = True

    mechanism: ClippedMechanism = Field(description="whose sum it is")
    clients_per_round: int = Field(description="the size of a round's cohort, on average")
    rounds: int = Field(description="planned")
    clip: float = Field(description="the largest L2 norm of an update, in this round")

    def contribution(self, update: Update) -> ExactSum:
        checked(update)
        if update.buffers or update.sums or update.scalars:
            besides = ", ".join([*update.buffers, *update.sums, *update.scalars])
            raise ParameterError(
                "federated.privacy",
                f"{self.mechanism.block}: clients also send {besides}, to which no noise is added; a strategy that "
                "sends updates alone, and a model without buffers, would do",
            )
        numbers = on_grid(update.delta, self.clip)
        return ExactSum({"delta": numbers}, {"delta": unit(self.clip)}, {}, Fraction(1), limit(self.clip))

    def result(self, total: ExactSum, context: ServerContext) -> Aggregate:
        numbers = total.vectors.get("delta", torch.zeros(context.dimension, dtype=torch.int64))
        noised = numbers + self.noise_on_updates(context)
        return Aggregate(noised.double() * (unit(self.clip) / self.clients_per_round))

    @abstractmethod
    def noise_on_updates(self, context: ServerContext) -> Tensor:
        """Return the noise on the sum of updates: (d,) int64, in units."""

    def noise(self, sigma: int, count: int, purpose: str, context: ServerContext) -> Tensor:
        """Draw discrete Gaussian noise: (count,) int64."""
        bits = secret() if self.mechanism.is_secret else reproducible(context.generator(purpose))
        return torch.from_numpy(discrete_gaussian(sigma, count, bits))

    def promised(self, context: ServerContext) -> Guarantee:
        """Return what clients are promised."""
        return self.mechanism.guarantee(context.clients, self.clients_per_round, self.rounds)


def unit(clip: float) -> float:
    """Return the unit of the grid: the power of two for which the clip is at least 2**29 units, and below 2**30."""
    _, exponent = math.frexp(clip)  # clip is at least 2**(exponent - 1), and below 2**exponent
    return 2.0 ** (exponent - CLIP_BITS)


def limit(clip: float) -> int:
    """Return the largest norm of a client's numbers, in whole units."""
    return math.floor(Fraction(clip) / Fraction(unit(clip)))


def sigma(noise_multiplier: float, clip: float) -> int:
    """Return the standard deviation of the discrete noise, in units: one more than the Gaussian's that is accounted.

    References:
        `fedpipe.privacy.accountant` says why one more.
    """
    return math.ceil(Fraction(noise_multiplier) * Fraction(clip) / Fraction(unit(clip))) + 1


def on_grid(delta: Tensor, clip: float) -> Tensor:
    """Return a vector, clipped, as whole numbers of units: (d,) int64 with a norm of at most clip / unit, exactly."""
    vector, bound = delta.double(), limit(clip)
    norm = float(torch.linalg.vector_norm(vector))
    scale = min(1.0, clip / norm) / unit(clip) if norm else 0.0
    while True:
        numbers = (vector * scale).trunc_().to(torch.int64)
        if int((numbers * numbers).sum()) <= bound**2:  # exact: these are below 2**61
            return numbers
        scale *= 1 - 2.0**-CLIP_BITS  # rounding has lengthened it by less
