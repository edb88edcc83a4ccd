"""The server's side of a secure aggregation: what it asks in each of the four steps, and the sum in the end.

It sees public keys, ciphertexts, masked numbers and, in the last step, shares of one of two secrets of each client.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedpipe.federated.secure import shamir
from fedpipe.federated.secure.masks import mask, pairwise_mask, private_key
from fedpipe.federated.secure.messages import (
    EncryptedShares,
    MaskRequest,
    PublicKeys,
    ShareRequest,
    Shares,
    UnmaskRequest,
)


class TooFew(Exception):
    """End a round without a sum, as fewer clients than the threshold answered a step."""


@dataclass(frozen=True)
class SecureServer:
    """The server in one round of secure aggregation.

    Clients may drop out in every step. All methods raise TooFew where fewer than the threshold are left.
    """

    round: int
    threshold: int  # how many clients must answer to the end, t
    keys: Mapping[int, PublicKeys]  # as they arrived in step 1, by client

    def share_request(self) -> ShareRequest:
        """Return what step 2 asks of every client whose keys arrived."""
        clients = self._enough(self.keys)
        return ShareRequest(self.round, self.threshold, _numbers(clients), self._keys(clients, "encryption"))

    def mask_request(self, senders: Collection[int]) -> MaskRequest:
        """Return what step 3 asks of every client whose shares arrived."""
        clients = self._enough(senders)
        return MaskRequest(self.round, self.threshold, _numbers(clients), self._keys(clients, "masking"))

    def unmask_requests(
        self, shares: Mapping[int, EncryptedShares], arrived: Collection[int]
    ) -> dict[int, UnmaskRequest]:
        """Return what step 4 asks of each client whose masked numbers arrived, by client.

        The paper hands out the ciphertexts in step 3. Until step 4, clients need no more of them than who sent some,
        which step 3 says; so those that drop out in between are not sent theirs in vain, and a client need not keep
        them. A server that keeps to the protocol learns nothing else by this.

        Args:
            shares: as they arrived in step 2, by client.
            arrived: clients whose masked numbers arrived in step 3.
        """
        asked, clients = self._enough(arrived), self._enough(shares)
        missing = sorted(set(clients) - set(asked))
        places = {client: place for place, client in enumerate(sorted(self.keys))}
        # (from, to, bytes); nobody sends any to itself.
        table = np.stack(
            [np.insert(shares[client].ciphertexts.numpy(), places[client], 0, axis=0) for client in clients]
        )
        keys = self._keys(clients, "encryption")
        return {
            client: UnmaskRequest(
                self.round, self.threshold, places[client] + 1, _numbers(asked), _numbers(missing), keys,
                torch.from_numpy(np.delete(table[:, places[client]], clients.index(client), axis=0)),
            )
            for client in asked
        }  # fmt: skip

    def unmasked(
        self, total: np.ndarray, senders: Collection[int], arrived: Collection[int], answers: Mapping[int, Shares]
    ) -> np.ndarray:
        """Return the sum of the clients' numbers: (d,) uint64, modulo 2⁶⁴.

        Args:
            total: (d,) uint64, the sum of the masked numbers that arrived.
            senders: clients whose shares arrived in step 2.
            arrived: clients whose masked numbers arrived in step 3.
            answers: as they arrived in step 4, by client.

        Raises:
            ValueError: the shares are not of one secret.
        """
        answering = self._enough(answers)[: self.threshold]
        points = np.searchsorted(sorted(self.keys), answering) + 1
        secrets = shamir.reconstruct(points, np.stack([answers[client].shares.numpy() for client in answering]))
        others = [(client, self.keys[client].masking.numpy().tobytes()) for client in arrived]
        total = total.copy()
        for client, secret in zip(sorted(senders), secrets, strict=True):
            if client in arrived:
                total -= mask(secret, len(total))
            else:
                # What the others added for it is the opposite of what it would have added for them.
                total += pairwise_mask(client, private_key(secret), others, len(total))
        return total

    def _enough(self, clients: Collection[int]) -> list[int]:
        """Return clients, ascending.

        Raises:
            TooFew: they are fewer than the threshold.
        """
        if len(clients) < self.threshold:
            raise TooFew(f"{len(clients)} clients are left, and {self.threshold} are needed")
        return sorted(clients)

    def _keys(self, clients: Collection[int], kind: Literal["encryption", "masking"]) -> Tensor:
        return torch.stack([getattr(self.keys[client], kind) for client in clients])


def _numbers(clients: Collection[int]) -> Tensor:
    return torch.tensor(clients, dtype=torch.int32)
