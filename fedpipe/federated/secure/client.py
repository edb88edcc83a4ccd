"""A client's side of a secure aggregation: what it answers in each of the four steps."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedpipe.federated.secure import shamir
from fedpipe.federated.secure.masks import agreed, derived, mask, pairwise_mask, private_key
from fedpipe.federated.secure.messages import (
    EncryptedShares,
    MaskedInput,
    MaskRequest,
    PublicKeys,
    ShareRequest,
    Shares,
    UnmaskRequest,
    as_row,
    as_rows,
    pieces,
)
from fedpipe.federated.secure.shamir import SHARE
from fedpipe.system.randomness import generator

CIPHERTEXT = 2 * SHARE + 16  # bytes: both shares, and what tells whether they were changed


class DropsOut(Exception):
    """Answer nothing more in this round, with the reason."""


@dataclass(frozen=True)
class SecureClient:
    """A client in one round of secure aggregation. What is not in order it does not answer.

    All its secrets follow from `root`, so that this is all it needs to remember from step to step.
    """

    client: int
    round: int
    root: bytes  # 32 bytes that nobody else knows, new for each round

    @classmethod
    def simulated(cls, seed: int, round: int, client: int) -> Self:
        """Return the client with a root that follows from the seed, so that a run can be repeated.

        Whoever knows the seed knows all masks. A real device takes its root from its operating system: os.urandom(32).
        """
        return cls(client, round, generator(seed, "secure aggregation", round=round, client=client).bytes(32))

    def advertise(self) -> PublicKeys:
        """Step 1, advertise keys: return the public halves of the round's two keys."""
        encryption, masking = (key.public_key().public_bytes_raw() for key in (self._encryption_key, self._masking_key))
        return PublicKeys(self.client, as_row(encryption), as_row(masking))

    def share(self, request: ShareRequest) -> EncryptedShares:
        """Step 2, share keys: return shares of the masking key and of the self mask, encrypted for each other client.

        Raises:
            DropsOut: the list of clients is not in order, or the threshold is not more than half of them.
        """
        clients, keys = request.clients.tolist(), pieces(request.encryption)
        self._check(clients, request.threshold)
        if request.threshold <= max(1, len(clients) / 2):
            raise DropsOut(f"the threshold {request.threshold} is not more than half of {len(clients)} clients, nor 2")
        if len(set(keys)) < len(keys):
            raise DropsOut("two clients have the same key")
        pairs = self._shares(request.threshold, range(1, len(clients) + 1))
        ciphertexts = [
            self._cipher(key).encrypt(_nonce(self.client), pair, self._address(self.client, other))
            for other, key, pair in zip(clients, keys, pairs, strict=True)
            if other != self.client
        ]
        return EncryptedShares(self.client, as_rows(ciphertexts))

    def masked(self, request: MaskRequest, numbers: np.ndarray) -> MaskedInput:
        """Step 3, masked input collection: return numbers with this client's masks added.

        Args:
            request: the server's.
            numbers: (d,) uint64, modulo 2⁶⁴.

        Raises:
            DropsOut: the list of clients is not in order, or shorter than the threshold.
        """
        clients = request.clients.tolist()
        self._check(clients, request.threshold)
        others = zip(clients, pieces(request.masking), strict=True)
        total = numbers + mask(self._self_mask_seed, len(numbers))
        total += pairwise_mask(self.client, self._masking_key, others, len(numbers))
        return MaskedInput(self.client, torch.from_numpy(total.view(np.int64)))

    def unmask(self, request: UnmaskRequest) -> Shares:
        """Step 4, unmasking: return a share of one secret of each client.

        It is of the self mask's seed if the client's masked numbers arrived, and of its masking key if they did not.
        Whoever had both of a client could tell its numbers.

        Raises:
            DropsOut: a list of clients is not in order, or shorter than the threshold, or a ciphertext is not what its
                sender encrypted for this client.
        """
        arrived = request.arrived.tolist()
        clients = sorted(arrived + request.missing.tolist())
        self._check(arrived, request.threshold)
        self._check(clients, request.threshold)
        (own,) = self._shares(request.threshold, range(request.place, request.place + 1))
        ciphertexts = iter(pieces(request.ciphertexts))
        shares, counted = [], set(arrived)
        for client, key in zip(clients, pieces(request.encryption), strict=True):
            pair = own if client == self.client else self._decrypted(next(ciphertexts), client, key)
            shares.append(pair[SHARE:] if client in counted else pair[:SHARE])
        return Shares(self.client, as_rows(shares))

    def _check(self, clients: Collection[int], threshold: int) -> None:
        """Check that a list of clients holds this one and enough others, and none of them twice.

        Raises:
            DropsOut: it does not.
        """
        if self.client not in clients:
            raise DropsOut("this client is not on the list")
        if len(set(clients)) < len(clients):
            raise DropsOut("a client is on the list twice")
        if len(clients) < threshold:
            raise DropsOut(f"{len(clients)} clients are fewer than the threshold {threshold}")

    def _shares(self, threshold: int, points: range) -> list[bytes]:
        """Return a share of the masking key and one of the self mask's seed for each point, joined."""
        secrets = {"shares of the masking key": self._masking_secret, "shares of the self mask": self._self_mask_seed}
        both = [shamir.share(secret, threshold, points, self._secret(key)) for key, secret in secrets.items()]
        return [row.tobytes() for row in np.concatenate(both, axis=1)]

    def _decrypted(self, ciphertext: bytes, sender: int, key: bytes) -> bytes:
        """Return what another client encrypted for this one."""
        try:
            return self._cipher(key).decrypt(_nonce(sender), ciphertext, self._address(sender, self.client))
        except InvalidTag:
            raise DropsOut(f"the shares from client {sender} are not as it sent them") from None

    def _cipher(self, key: bytes) -> ChaCha20Poly1305:
        """Return the cipher for this client and the one with this public key, in both directions."""
        return ChaCha20Poly1305(agreed(self._encryption_key, key, "encryption"))

    def _address(self, sender: int, receiver: int) -> bytes:
        """Return what a ciphertext is bound to."""
        return f"round {self.round}, from {sender} to {receiver}".encode()

    @cached_property
    def _encryption_key(self) -> X25519PrivateKey:
        return private_key(self._secret("encryption key"))

    @cached_property
    def _masking_key(self) -> X25519PrivateKey:
        return private_key(self._masking_secret)

    @cached_property
    def _masking_secret(self) -> bytes:
        return self._secret("masking key")

    @cached_property
    def _self_mask_seed(self) -> bytes:
        return self._secret("self mask")

    def _secret(self, purpose: str) -> bytes:
        return derived(self.root, purpose)


def _nonce(sender: int) -> bytes:
    """Return the number of the one message that a client sends under a key: the other direction's is another."""
    return sender.to_bytes(12, "big")
