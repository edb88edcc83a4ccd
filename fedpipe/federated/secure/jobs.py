"""The clients' steps of a secure aggregation, as workers run them: jobs of an engine, and the mask of `TrainAndMask`.

Of a client that drops out of a step there is no answer.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.aggregation.mean import CAPACITY, ExactSum
from fedpipe.federated.secure.client import DropsOut, SecureClient
from fedpipe.federated.secure.messages import (
    EncryptedShares,
    MaskedInput,
    MaskRequest,
    PublicKeys,
    ShareRequest,
    Shares,
    UnmaskRequest,
)
from fedpipe.system.errors import UserError


@dataclass(frozen=True)
class AdvertiseKeys:
    """Step 1 of some clients."""

    seed: int

    def __call__(self, round: int, clients: Iterable[int]) -> list[PublicKeys]:
        return [SecureClient.simulated(self.seed, round, client).advertise() for client in clients]


@dataclass(frozen=True)
class ShareKeys:
    """Step 2 of some clients."""

    seed: int

    def __call__(self, request: ShareRequest, clients: Iterable[int]) -> list[EncryptedShares]:
        answers: list[EncryptedShares] = []
        for client in clients:
            with suppress(DropsOut):
                answers.append(SecureClient.simulated(self.seed, request.round, client).share(request))
        return answers


@dataclass(frozen=True)
class MaskNumbers:
    """Step 3 of each client that is asked."""

    seed: int
    request: MaskRequest

    def __call__(self, client: int, contribution: ExactSum) -> tuple[MaskedInput, ExactSum]:
        """Return what a client sends, and the numbers in it as its contribution.

        Raises:
            Refused: it drops out, also because its numbers are too large.
            UserError: an update holds scalars, which are fractions of any length.
        """
        if contribution.scalars:
            names = ", ".join(contribution.scalars)
            raise UserError(f"secure aggregation adds up vectors, and the updates hold numbers besides: {names}")
        self._check_range(contribution)
        own = SecureClient.simulated(self.seed, self.request.round, client)
        try:
            sent = own.masked(self.request, contribution.numbers().numpy().view(np.uint64))
        except DropsOut as reason:
            raise Refused(str(reason)) from None
        # How large the numbers are is a secret, too.
        return sent, replace(contribution.with_numbers(sent.numbers), largest=0)

    def _check_range(self, contribution: ExactSum) -> None:
        """Check that modulo 2⁶⁴ the sum of so many contributions is their sum.

        Means are: all weights together are 1 at most. Sums have no weights.

        Raises:
            Refused: it need not be.
        """
        bound = CAPACITY // len(self.request.clients)
        for name, vector in contribution.vectors.items():
            if name.startswith("sums/") and bool((vector.abs() >= bound).any()):
                raise Refused(f"its {name} may leave the range of the sum")


@dataclass(frozen=True)
class Unmask:
    """Step 4 of some clients, each with what it is asked."""

    seed: int

    def __call__(self, round: int, asked: Iterable[tuple[int, UnmaskRequest]]) -> list[Shares]:
        answers: list[Shares] = []
        for client, request in asked:
            with suppress(DropsOut):
                answers.append(SecureClient.simulated(self.seed, round, client).unmask(request))
        return answers
