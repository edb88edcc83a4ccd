"""Make random generators, here and nowhere else. Draws are addressed, never consumed from a shared stream.

Every draw names its purpose, round and client, so that the same bits come out for any engine, any number of workers,
any order of execution, and after a resume.
"""

import hashlib
import secrets
from functools import lru_cache

import numpy as np


def generator(seed: int, purpose: str, *, round: int = 0, client: int = 0) -> np.random.Generator:
    """Return the random generator for one purpose in one round at one client. Equal arguments give equal draws.

    Args:
        seed: the seed of the whole pipeline, at least 0.
        purpose: what is drawn, such as ``"cohort"`` or ``"batches"``. Draws for different purposes are independent.
        round: the round, or 0 for what is drawn once.
        client: the client, or 0 for what the server draws.

    References:
        numpy.random.SeedSequence: spawn keys make independent streams from one seed.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_key(purpose), round, client)))


def secret_seed() -> int:
    """Return a seed that nobody can repeat or foretell, of the operating system's randomness."""
    return secrets.randbits(128)


@lru_cache
def _key(purpose: str) -> int:
    """Return the purpose as a number of 32 bits."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")
