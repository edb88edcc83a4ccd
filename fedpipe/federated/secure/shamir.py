"""Shamir's secret sharing: any t of n shares give a secret, and fewer say nothing about it.

A secret of 32 bytes is 16 numbers of 16 bits, each shared by a polynomial of its own over the field of 65,537 elements.
Products are of two numbers of at most 2¹⁶, and sums of fewer than 2¹⁷ of these are below 2⁵³: float64 holds them
exactly, so that matrix products do the work. Shamir 1979, How to share a secret, Communications of the ACM 22(11).
"""

from functools import lru_cache

import numpy as np

from fedpipe.federated.secure.masks import keystream

PRIME = 2**16 + 1
LIMBS = 16  # numbers that a secret of 32 bytes is cut into
SHARE = 2 * LIMBS + LIMBS // 8  # bytes: the lower 16 bits of each number, and a bit for each that says if it is 2¹⁶

SPARE = 8  # draws for those that are rejected, each with probability 2⁻³²


def share(secret: bytes, threshold: int, points: range, key: bytes) -> np.ndarray:
    """Return the shares of a secret at some points: (points, SHARE) uint8.

    Args:
        secret: 32 bytes.
        threshold: how many shares give the secret, t.
        points: from 1 to 65,536; the same arguments otherwise give the same polynomials.
        key: 32 secret bytes, used for nothing else, from which the polynomials are drawn.

    Raises:
        ValueError: there are too many points; at 65,537, which is 0, the share would be the secret.
    """
    if not 0 < points.start <= points.stop <= PRIME:
        raise ValueError(f"shares for more than {PRIME - 1} clients, which there cannot be")
    constant = np.frombuffer(secret, "<u2")[None]
    drawn = _uniform(key, (threshold - 1) * LIMBS).reshape(threshold - 1, LIMBS)
    coefficients = np.concatenate([constant, drawn]).astype(np.float64)  # (t, limbs)
    return _packed((_powers(points, threshold) @ coefficients).astype(np.int64) % PRIME)


def reconstruct(points: np.ndarray, shares: np.ndarray) -> list[bytes]:
    """Return secrets from any t of each one's shares.

    Args:
        points: (t,) different ones.
        shares: (t, secrets, SHARE) uint8, at these points.

    Raises:
        ValueError: they are not shares of one secret.
    """
    numbers = constants(points, _unpacked(shares))
    if (numbers == PRIME - 1).any():
        raise ValueError("these shares are not of one secret, whose numbers have 16 bits")
    return [row.tobytes() for row in numbers.astype("<u2")]


def constants(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return at 0 the polynomials of degree below t that have these values, by Lagrange's formula.

    Args:
        points: (t,) different ones.
        values: (t, ...) whole numbers from 0 to 65,536.
    """
    points = points.astype(np.int64)
    above, below = np.ones_like(points), np.ones_like(points)
    for point in points:
        others = points != point
        above = np.where(others, above * point % PRIME, above)
        below = np.where(others, below * (point - points) % PRIME, below)
    weights = above * np.array([pow(int(number), -1, PRIME) for number in below]) % PRIME
    sums = np.tensordot(weights.astype(np.float64), values.astype(np.float64), axes=1)
    return sums.astype(np.int64) % PRIME


@lru_cache(maxsize=2)  # that of all members, and that of one
def _powers(points: range, count: int) -> np.ndarray:
    """Return the powers 0 to count - 1 of each point: (points, count) float64."""
    base = np.array(points, np.int64)
    powers = np.ones((count, len(points)), np.int64)
    for exponent in range(1, count):
        powers[exponent] = powers[exponent - 1] * base % PRIME
    return powers.T.astype(np.float64)


def _uniform(key: bytes, count: int) -> np.ndarray:
    """Return numbers from 0 to 65,536, each equally likely.

    There are 2³² numbers of 32 bits, one more than a multiple of 65,537; without the last one, remainders are uniform.
    """
    words = np.frombuffer(keystream(key, 4 * (count + SPARE)), "<u4")
    return words[words < 2**32 - 1][:count] % PRIME


def _packed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers from 0 to 65,536 as bytes: (..., LIMBS) becomes (..., SHARE)."""
    low = np.ascontiguousarray(numbers.astype("<u2")).view(np.uint8)
    return np.concatenate([low, np.packbits(numbers == PRIME - 1, axis=-1)], axis=-1)


def _unpacked(shares: np.ndarray) -> np.ndarray:
    low = np.ascontiguousarray(shares[..., : 2 * LIMBS]).view("<u2").astype(np.int64)
    return low + (np.unpackbits(shares[..., 2 * LIMBS :], axis=-1).astype(np.int64) << 16)
