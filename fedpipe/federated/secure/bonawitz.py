"""The protocol of Bonawitz et al.: its parameters, and its four steps in a round."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedpipe.engines import RunTasks
from fedpipe.federated.aggregation.mean import ExactSum
from fedpipe.federated.messages import PartialSum, Update
from fedpipe.federated.sampling import Probability
from fedpipe.federated.secure.base import Bytes, Collected, SecureAggregation, Train
from fedpipe.federated.secure.client import CIPHERTEXT
from fedpipe.federated.secure.jobs import AdvertiseKeys, MaskNumbers, ShareKeys, Unmask
from fedpipe.federated.secure.masks import KEY
from fedpipe.federated.secure.messages import (
    EncryptedShares,
    MaskedInput,
    MaskRequest,
    PublicKeys,
    ShareRequest,
    Shares,
    UnmaskRequest,
)
from fedpipe.federated.secure.server import SecureServer, TooFew
from fedpipe.federated.secure.shamir import SHARE
from fedpipe.system.randomness import generator


class Bonawitz(SecureAggregation):
    """The protocol bonawitz masks each client's numbers, so that the masks cancel in the sum, whoever drops out.

    The server learns the sum, from which the model follows with the same bits as without masks, and learns nothing else
    of the clients' numbers, as long as it keeps to the protocol and fewer clients than the threshold tell it what they
    know. docs/secure-aggregation.md says what is covered and what is not. Bonawitz et al. 2017, eprint 2017/281,
    figure 4, for an honest but curious server.
    """

    hides_updates = True

    threshold: Annotated[float, Field(gt=0.5, le=1)] = Field(
        default=0.67,
        description="The part of a round's cohort that must answer to the end, and at least 2 clients; with fewer, the "
        "round is skipped. As many clients together could find out another one's numbers.",
    )
    dropout_after: Probability = Field(
        default=0.0,
        description="Probability that a client drops out after its masked update has arrived, which then counts. "
        "Those of federated.dropout drop out before, and their updates never arrive.",
    )

    @property
    def loses_clients(self) -> bool:
        return self.dropout_after > 0

    def collect(self, seed: int, round: int, cohort: Collection[int], train: Train, run_tasks: RunTasks) -> Collected:
        """Do as `SecureAggregation.collect` by the protocol's four steps. Too few clients in any of them end it.

        All clients of the cohort take part in the first two steps. Those that return no update drop out in the third.
        """
        if not cohort:
            return train(cohort)  # there is nothing to hide
        updates, line = PartialSum(ExactSum(), (), (), 0), _Line(run_tasks)
        try:
            keys = line.ask(AdvertiseKeys(seed), round, [*cohort])
            server = SecureServer(round, self.needed(len(cohort)), keys)

            request = server.share_request()
            line.bytes_down += len(keys) * len(request)
            shares = line.ask(ShareKeys(seed), request, sorted(keys))

            request = server.mask_request(shares)
            line.bytes_down += len(shares) * len(request)
            trained = train(shares, MaskNumbers(seed, request))
            updates, line.bytes_down = trained.updates, line.bytes_down + trained.bytes_down

            arrived = {report.client for report in updates.reports}
            requests = server.unmask_requests(shares, arrived)
            line.bytes_down += sum(map(len, requests.values()))
            staying = [(client, one) for client, one in requests.items() if not self.leaves(seed, round, client)]
            answers = line.ask(Unmask(seed), round, staying)

            total = updates.sum
            assert isinstance(total, ExactSum), "no other aggregator's sum may be masked"
            numbers = server.unmasked(total.numbers().numpy().view(np.uint64), shares, arrived, answers)
            updates = replace(updates, sum=total.with_numbers(torch.from_numpy(numbers.view(np.int64))))
            void = False
        except TooFew:
            void = True
        return Collected(replace(updates, bytes_up=updates.bytes_up + line.bytes_up), line.bytes_down, void)

    def usual(self, cohort: int, dimension: int, update: Update) -> Bytes:
        def rows(count: int, width: int) -> Tensor:
            return torch.zeros(count, width, dtype=torch.uint8)

        key, clients = rows(1, KEY)[0], torch.zeros(cohort, dtype=torch.int32)
        keys, ciphertexts = rows(cohort, KEY), rows(cohort - 1, CIPHERTEXT)
        asked = [
            ShareRequest(0, 0, clients, keys),
            MaskRequest(0, 0, clients, keys),
            UnmaskRequest(0, 0, 0, clients, clients[:0], keys, ciphertexts),
        ]
        answers = [
            PublicKeys(0, key, key),
            EncryptedShares(0, ciphertexts),
            MaskedInput(0, torch.zeros(dimension, dtype=torch.int64)),
            update.report,
            Shares(0, rows(cohort, SHARE)),
        ]
        return Bytes(sum(map(len, asked)), sum(map(len, answers)))

    def needed(self, clients: int) -> int:
        """Return how many of a cohort must answer to the end, t."""
        return max(2, math.ceil(round(self.threshold * clients, 6)))  # 0.55 * 100 is a little more than 55

    def leaves(self, seed: int, round: int, client: int) -> bool:
        """Tell whether a client drops out after its masked update has arrived."""
        rng = generator(seed, "dropout after masking", round=round, client=client)
        return self.dropout_after > 0 and rng.random() < self.dropout_after


@dataclass
class _Line:
    """Ask clients, and count the bytes that they send."""

    run_tasks: RunTasks
    bytes_down: int = 0
    bytes_up: int = 0

    def ask(self, job: Any, shared: Any, asked: Sequence[Any]) -> dict[int, Any]:
        """Return the answers by client; of some clients there may be none."""
        answers = {answer.client: answer for several in self.run_tasks(job, shared, asked) for answer in several}
        self.bytes_up += sum(map(len, answers.values()))
        return answers
