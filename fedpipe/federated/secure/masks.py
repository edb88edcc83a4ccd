"""Keys, and the masks that they become: X25519, HKDF-SHA256 and ChaCha20, as `cryptography` has them."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY = 32  # bytes of a key, a seed and a secret


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a key for one purpose from 32 secret bytes. HKDF-SHA256, RFC 5869."""
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=purpose.encode()).derive(secret)


def private_key(secret: bytes) -> X25519PrivateKey:
    """Return the private key that 32 secret bytes are."""
    return X25519PrivateKey.from_private_bytes(secret)


def agreed(own: X25519PrivateKey, public: bytes, purpose: str) -> bytes:
    """Return the key for one purpose that two clients have in common, each from its own key and the other's public one.

    Raises:
        ValueError: the public key is none that a client has.
    """
    return derived(own.exchange(X25519PublicKey.from_public_bytes(public)), purpose)


def mask(seed: bytes, length: int) -> np.ndarray:
    """Return the numbers that a seed becomes: (length,) uint64, uniform for whoever does not know the seed."""
    return np.frombuffer(keystream(seed, 8 * length), "<u8")


def pairwise_mask(client: int, own: X25519PrivateKey, others: Iterable[tuple[int, bytes]], length: int) -> np.ndarray:
    """Return what a client adds to its numbers for the other clients: (length,) uint64, modulo 2⁶⁴.

    Each pair of clients has a mask in common, which the one with the higher number adds and the other subtracts.

    Args:
        client: its number.
        own: the key that it masks with.
        others: clients, and their public keys for this; it may be among them.
        length: of the numbers.

    Raises:
        ValueError: a public key is none that a client has.
    """
    total = np.zeros(length, np.uint64)
    for other, public in others:
        if other != client:
            common = mask(agreed(own, public, "mask"), length)
            (np.add if client > other else np.subtract)(total, common, out=total)
    return total


def keystream(key: bytes, length: int) -> bytes:
    """Return ChaCha20's bytes for a key, RFC 8439. Its nonce is 0: no key makes two streams."""
    encryptor = Cipher(algorithms.ChaCha20(key, nonce=bytes(16)), mode=None).encryptor()
    return encryptor.update(_zeros(length))


@lru_cache(maxsize=2)
def _zeros(length: int) -> bytes:
    return bytes(length)
