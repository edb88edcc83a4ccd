"""What the server and the clients of a secure aggregation send each other, step by step.

Clients ascend wherever they stand, and rows of keys, ciphertexts and shares are in their order. What the server asks
holds all that a client needs for its answer besides its own secret, so that it need not remember the steps before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedpipe.federated.messages import Message


@dataclass(frozen=True)
class PublicKeys(Message):
    """Step 1, advertise keys: the public halves of a client's two keys of a round."""

    client: int
    encryption: Tensor  # (32,) uint8, with which others encrypt shares for it
    masking: Tensor  # (32,) uint8, from which pairs of clients make masks


@dataclass(frozen=True)
class ShareRequest(Message):
    """Step 2, share keys: what the server asks of every client whose keys arrived."""

    round: int
    threshold: int  # how many clients must answer to the end, t
    clients: Tensor  # (n,) int32, whose keys arrived: U1
    encryption: Tensor  # (n, 32) uint8


@dataclass(frozen=True)
class EncryptedShares(Message):
    """A client's answer: a share of each of its two secrets for each other client, which nobody else can read."""

    client: int
    ciphertexts: Tensor  # (n - 1, 84) uint8


@dataclass(frozen=True)
class MaskRequest(Message):
    """Step 3, masked input collection: what the server asks of every client whose shares arrived."""

    round: int
    threshold: int
    clients: Tensor  # (m,) int32, whose shares arrived: U2
    masking: Tensor  # (m, 32) uint8


@dataclass(frozen=True)
class MaskedInput(Message):
    """A client's answer: its numbers, masked."""

    client: int
    numbers: Tensor  # (d,) int64: the bits of whole numbers modulo 2⁶⁴


@dataclass(frozen=True)
class UnmaskRequest(Message):
    """Step 4, unmasking: what the server asks of one client whose masked numbers arrived."""

    round: int
    threshold: int
    place: int  # of the client among those whose keys arrived: 1, 2, ...
    arrived: Tensor  # (k,) int32, whose masked numbers arrived: U3
    missing: Tensor  # (m - k,) int32, whose shares arrived, but not their masked numbers
    encryption: Tensor  # (m, 32) uint8, of both
    ciphertexts: Tensor  # (m - 1, 84) uint8, for this client, of both without it


@dataclass(frozen=True)
class Shares(Message):
    """A client's answer: a share of the self mask of each client that arrived, and of the masking key of each other."""

    client: int
    shares: Tensor  # (m, 34) uint8, of both


def as_row(content: bytes) -> Tensor:
    """Return bytes as a tensor: (length,) uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def as_rows(contents: Sequence[bytes]) -> Tensor:
    """Return pieces of equal length as a tensor: (pieces, length) uint8."""
    return as_row(b"".join(contents)).view(len(contents), -1)


def pieces(rows: Tensor) -> list[bytes]:
    """Return what `as_rows` was given."""
    return [row.tobytes() for row in rows.numpy()]
