"""The one place where a random generator is made. Draws are addressed, never consumed from a shared stream.

Every draw names its purpose, round and client, so the same bits come out for any engine, any number of
workers, any order of execution, and after a resume.
"""

import hashlib
from functools import lru_cache

import numpy as np


def generator(seed: int, purpose: str, *, round: int = 0, client: int = 0) -> np.random.Generator:
    """The generator at an address.

    Args:
        seed: the experiment's seed, >= 0.
        purpose: what is drawn, e.g. ``"cohort"`` or ``"batches"``. Streams of two purposes are independent.
        round: the round, 0 for what is drawn once.
        client: the client, 0 for what the server draws.

    References:
        numpy.random.SeedSequence: a spawn key makes independent streams of one entropy.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_key(purpose), round, client)))


@lru_cache
def _key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")
