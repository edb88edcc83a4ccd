"""Secure aggregation: the sum bit by bit whoever drops out, and nothing else for the server."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import grimp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom, chisquare

from fedpipe.engines import Compute
from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.aggregation.base import Refused
from fedpipe.federated.aggregation.collected import Collected, Collecting
from fedpipe.federated.aggregation.mean import ExactSum, Mean
from fedpipe.federated.context import ClientContext, LocalResult, LocalTraining, ServerContext
from fedpipe.federated.messages import Aggregate, ClientReport, Message, Update
from fedpipe.federated.rounds import Round
from fedpipe.federated.secure import shamir
from fedpipe.federated.secure.bonawitz import Bonawitz
from fedpipe.federated.secure.client import DropsOut, SecureClient
from fedpipe.federated.secure.jobs import MaskNumbers
from fedpipe.federated.secure.masks import mask, pairwise_mask, private_key
from fedpipe.federated.secure.messages import EncryptedShares, MaskedInput, Shares, UnmaskRequest
from fedpipe.federated.secure.server import SecureServer, TooFew
from fedpipe.federated.state import ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.federated.strategies.fedavg import FedAvg
from fedpipe.federated.transforms.base import Transform
from fedpipe.federated.worker import TrainAndMask, TrainAndSum
from fedpipe.models.logistic import Logistic
from fedpipe.models.reference_cnn import ReferenceBatchNormCNN
from fedpipe.system.errors import UserError
from tests.federations import (
    MNIST,
    SIZES,
    client_of,
    federate,
    first_round,
    same,
    settings_of,
    start_of,
    task_of,
)

ROUND = 3
KEY = bytes(range(32))

M = TypeVar("M", bound=Message)
secrets = st.binary(min_size=32, max_size=32)


@dataclass
class Run:
    """A round in which clients drop out: all that was sent."""

    clients: Mapping[int, SecureClient]
    threshold: int
    numbers: Mapping[int, np.ndarray]  # (d,) uint64
    length: int
    round: int

    def until_masked(self, no_keys: Collection[int], no_shares: Collection[int], no_numbers: Collection[int]) -> None:
        """Run the first three steps, after which those clients are gone."""
        self.server = SecureServer(
            self.round,
            self.threshold,
            {k: sent(one.advertise()) for k, one in self.clients.items() if k not in no_keys},
        )
        request = sent(self.server.share_request())
        self.shares: dict[int, EncryptedShares] = {
            k: sent(self.clients[k].share(request)) for k in self.server.keys if k not in no_shares
        }
        request = sent(self.server.mask_request(self.shares))
        self.masked: dict[int, MaskedInput] = {
            k: sent(self.clients[k].masked(request, self.numbers[k])) for k in self.shares if k not in no_numbers
        }

    def to_the_end(
        self,
        no_keys: Collection[int],
        no_shares: Collection[int],
        no_numbers: Collection[int],
        no_answer: Collection[int],
    ) -> np.ndarray:
        self.until_masked(no_keys, no_shares, no_numbers)
        return self.until_unmasked(no_answer)

    def unmask_requests(self) -> dict[int, UnmaskRequest]:
        return {k: sent(one) for k, one in self.server.unmask_requests(self.shares, self.masked).items()}

    def until_unmasked(self, no_answer: Collection[int]) -> np.ndarray:
        """Run the last step, after which those clients are gone, and return the sum."""
        self.answers: dict[int, Shares] = {
            k: sent(self.clients[k].unmask(one)) for k, one in self.unmask_requests().items() if k not in no_answer
        }
        total = np.zeros(self.length, np.uint64)
        for one in self.masked.values():
            total += as_numbers(one)
        return self.server.unmasked(total, self.shares, self.masked, self.answers)


def sent(message: M) -> M:
    """The message as it arrives."""
    return type(message).decode(message.encode())


def run_of(clients: Collection[int], threshold: int, *, seed: int = 0, length: int = 5, round: int = ROUND) -> Run:
    return Run(
        {k: SecureClient.simulated(seed, round, k) for k in clients},
        threshold,
        {k: np.random.default_rng([seed, k]).integers(0, 2**64, length, dtype=np.uint64) for k in clients},
        length,
        round,
    )


def as_numbers(masked: MaskedInput) -> np.ndarray:
    return masked.numbers.numpy().view(np.uint64)


def as_bytes(row: torch.Tensor) -> bytes:
    return bytes(row.tolist())


def clients(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def plain_sum(run: Run, clients: Collection[int]) -> list[int]:
    """In integers of any size."""
    return [sum(int(run.numbers[k][place]) for k in clients) % 2**64 for place in range(run.length)]


@given(st.data())
def test_the_unmasked_sum_is_that_of_the_clients_whose_numbers_arrived_bit_by_bit(data: st.DataObject):
    """Whoever drops out in whichever step, as long as enough are left; else there is none."""
    cohort = data.draw(st.sets(st.integers(0, 100_000), min_size=2, max_size=8), label="cohort")
    threshold = data.draw(st.integers(len(cohort) // 2 + 1, len(cohort)), label="threshold")
    last_steps = st.lists(st.integers(0, 8), min_size=len(cohort), max_size=len(cohort))  # in which each answers
    last_step = dict(zip(sorted(cohort), data.draw(last_steps, label="last step"), strict=True))
    gone = {step: {k for k, last in last_step.items() if last < step} for step in (1, 2, 3, 4)}
    run = run_of(cohort, threshold, seed=data.draw(st.integers(0, 100)), length=data.draw(st.integers(0, 20)))
    if len(cohort - gone[4]) >= threshold:
        assert run.to_the_end(*gone.values()).tolist() == plain_sum(run, cohort - gone[3])
    else:
        with pytest.raises(TooFew, match=f" clients are left, and {threshold} are needed$"):
            run.to_the_end(*gone.values())


def test_the_server_can_do_without_any_clients_answer_but_not_without_the_thresholds():
    run = run_of(range(5), 3)
    run.until_masked((), (), {4})
    for no_answer in combinations(range(4), 1):
        assert run.until_unmasked(no_answer).tolist() == plain_sum(run, range(4))
    for no_answer in combinations(range(4), 2):
        with pytest.raises(TooFew):
            run.until_unmasked(no_answer)


def test_masked_numbers_are_uniform_bytes_whatever_the_numbers_are():
    run = run_of(range(4), 3, length=50_000)
    run.numbers = {k: np.zeros(run.length, np.uint64) for k in run.clients}
    run.until_masked((), (), ())
    for one in run.masked.values():
        counts = np.bincount(as_numbers(one).view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-4
    total = sum(map(as_numbers, run.masked.values()), np.zeros(run.length, np.uint64))
    assert chisquare(np.bincount(total.view(np.uint8), minlength=256)).pvalue > 1e-4  # the self masks are still there


def test_masked_numbers_differ_wholly_in_another_round_and_for_another_client():
    length = 10_000
    masked: list[np.ndarray] = []
    for round in (1, 2):
        run = run_of(range(3), 2, length=length, round=round)
        run.numbers = dict.fromkeys(run.clients, np.arange(length, dtype=np.uint64))
        run.until_masked((), (), ())
        masked += [one.numbers.numpy().view(np.uint8) for one in run.masked.values()]
    for one, other in combinations(masked, 2):
        assert 0 < np.mean(one == other) < 2 / 256  # bytes agree by chance, 1 in 256


def test_a_masked_input_without_the_self_mask_which_the_server_learns_is_still_uniform():
    """Of a client whose numbers arrived it can take away the self mask, and the others' masks stay."""
    run = run_of(range(4), 3, length=50_000)
    run.numbers = {k: np.zeros(run.length, np.uint64) for k in run.clients}
    run.until_masked((), (), ())
    run.until_unmasked(())
    for k, seed in enumerate(secrets_learnt(run)):
        left = as_numbers(run.masked[k]) - mask(seed, run.length)
        assert chisquare(np.bincount(left.view(np.uint8), minlength=256)).pvalue > 1e-4


def test_a_masked_input_that_comes_too_late_is_still_uniform():
    """The server has had its masking key by then. Against that the self mask is there."""
    run = run_of(range(4), 3, length=50_000)
    run.numbers = {k: np.zeros(run.length, np.uint64) for k in run.clients}
    run.until_masked((), (), {2})
    run.until_unmasked(())
    late = run.clients[2].masked(run.server.mask_request(run.shares), run.numbers[2])
    key = private_key(secrets_learnt(run)[2])
    others = [(k, as_bytes(run.server.keys[k].masking)) for k in run.clients]
    left = as_numbers(late) - pairwise_mask(2, key, others, run.length)
    assert chisquare(np.bincount(left.view(np.uint8), minlength=256)).pvalue > 1e-4
    assert (left == mask(run.clients[2]._self_mask_seed, run.length)).all()  # else it would be no wonder


def secrets_learnt(run: Run) -> list[bytes]:
    """What the server makes of the answers: a secret of each client whose shares arrived, ascending."""
    places = {k: place for place, k in enumerate(sorted(run.server.keys), 1)}
    points = np.array([places[k] for k in run.answers])
    return shamir.reconstruct(points, np.stack([one.shares.numpy() for one in run.answers.values()]))


def test_of_each_client_the_server_learns_one_secret_and_not_the_other():
    run = run_of(range(10, 17), 4)
    run.until_masked({10}, {11}, {12})
    run.until_unmasked(())
    expected = {k: one._masking_secret if k == 12 else one._self_mask_seed for k, one in run.clients.items()}
    assert secrets_learnt(run) == [expected[k] for k in run.shares]
    for answer in run.answers.values():
        assert len(answer.shares) == len(run.shares) == 5


def test_a_client_refuses_to_give_shares_of_both_secrets_of_a_client():
    run = run_of(range(5), 3)
    run.until_masked((), (), {4})
    request = run.unmask_requests()[0]
    assert (request.arrived.tolist(), request.missing.tolist()) == ([0, 1, 2, 3], [4])
    both = replace(
        request, missing=clients(3, 4),
        encryption=request.encryption[[0, 1, 2, 3, 3, 4]], ciphertexts=request.ciphertexts[[0, 1, 2, 2, 3]],
    )  # fmt: skip
    with pytest.raises(DropsOut, match="a client is on the list twice"):
        run.clients[0].unmask(both)
    with pytest.raises(DropsOut, match="this client is not on the list"):  # of those that arrived, as it knows it did
        run.clients[0].unmask(replace(request, arrived=clients(1, 2, 3), missing=clients(0, 4)))
    with pytest.raises(DropsOut, match="2 clients are fewer than the threshold 3"):
        run.clients[0].unmask(replace(request, arrived=clients(0, 1), missing=clients(2, 3, 4)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": 2}, "the threshold 2 is not more than half of 4 clients"),  # two halves could each give a secret
        ({"threshold": 5}, "4 clients are fewer than the threshold 5"),
        ({"clients": [1, 2, 3, 4]}, "this client is not on the list"),
        ({"clients": [0, 1, 2, 2]}, "a client is on the list twice"),
        ({"encryption": [0, 1, 2, 2]}, "two clients have the same key"),
    ],
)
def test_a_client_shares_nothing_where_the_request_is_not_in_order(change: dict[str, Any], reason: str):
    run = run_of(range(4), 3)
    run.until_masked((), (), ())
    request = run.server.share_request()
    if "clients" in change:
        change = {"clients": clients(*change["clients"])}
    if "encryption" in change:
        change = {"encryption": request.encryption[change["encryption"]]}
    with pytest.raises(DropsOut, match=reason):
        run.clients[0].share(replace(request, **change))


def test_a_client_masks_nothing_for_fewer_clients_than_the_threshold_or_without_being_asked():
    run = run_of(range(4), 3)
    run.until_masked((), (), ())
    request = run.server.mask_request(run.shares)
    with pytest.raises(DropsOut, match="2 clients are fewer than the threshold 3"):
        run.clients[0].masked(replace(request, clients=clients(0, 1), masking=request.masking[:2]), run.numbers[0])
    with pytest.raises(DropsOut, match="this client is not on the list"):
        run.clients[0].masked(replace(request, clients=clients(1, 2, 3), masking=request.masking[1:]), run.numbers[0])


def test_a_sum_of_one_is_no_secret():
    run = run_of([7], 1)
    with pytest.raises(DropsOut, match="is not more than half of 1 clients, nor 2"):
        run.until_masked((), (), ())


@given(st.integers(0, 2), st.integers(0, 83), st.integers(1, 255))
def test_a_client_drops_out_if_a_ciphertext_was_changed(row: int, byte: int, change: int):
    run = run_of(range(4), 3)
    run.until_masked((), (), ())
    request = run.unmask_requests()[1]
    request.ciphertexts[row, byte] ^= change
    with pytest.raises(DropsOut, match=f"the shares from client {[0, 2, 3][row]} are not as it sent them"):
        run.clients[1].unmask(request)


def test_a_client_drops_out_if_a_ciphertext_is_anothers_or_of_another_round():
    run, other = run_of(range(4), 3), run_of(range(4), 3, round=ROUND + 1)
    run.until_masked((), (), ())
    other.clients = {k: replace(one, round=ROUND + 1) for k, one in run.clients.items()}  # of the same keys
    other.until_masked((), (), ())
    request = run.unmask_requests()[0]
    swapped = replace(request, ciphertexts=request.ciphertexts[[1, 0, 2]])
    to_another = replace(request, ciphertexts=run.unmask_requests()[3].ciphertexts)
    earlier = replace(request, ciphertexts=other.unmask_requests()[0].ciphertexts)
    for wrong in (swapped, to_another, earlier):
        with pytest.raises(DropsOut, match=r"the shares from client \d are not as it sent them"):
            run.clients[0].unmask(wrong)


def test_a_pair_of_clients_encrypts_each_direction_by_itself():
    """Both have the same key. With one nonce for both, ciphertexts would differ as the shares do."""
    run = run_of(range(2), 2)
    run.until_masked((), (), ())
    encrypted = [np.frombuffer(as_bytes(run.shares[k].ciphertexts[0, :68]), np.uint8) for k in range(2)]
    shares = [np.frombuffer(run.clients[k]._shares(2, range(2 - k, 3 - k))[0], np.uint8) for k in range(2)]
    assert np.mean(encrypted[0] ^ encrypted[1] == shares[0] ^ shares[1]) < 0.1
    assert np.mean(encrypted[0] == shares[0]) < 0.1


def test_what_a_client_answers_follows_from_its_root_and_from_nothing_else():
    one, same, other = (run_of(range(3), 2, seed=seed, length=100) for seed in (1, 1, 2))
    for run in (one, same, other):
        run.until_masked((), (), ())
        run.until_unmasked(())

    def all_sent(run: Run) -> list[bytes]:
        by_step = (run.server.keys, run.shares, run.masked, run.answers)
        return [message.encode() for step in by_step for message in step.values()]

    assert all_sent(one) == all_sent(same)
    assert not set(all_sent(one)) & set(all_sent(other))


def test_the_servers_side_imports_nothing_of_the_clients():
    graph = grimp.build_graph("fedpipe", cache_dir=None)
    secure = "fedpipe.federated.secure"
    assert not graph.chain_exists(f"{secure}.server", f"{secure}.client")
    assert graph.chain_exists(f"{secure}.client", f"{secure}.masks")


def shared_numbers(share: np.ndarray) -> list[int]:
    """The numbers of a share, from its 34 bytes."""
    low, high = bytes(share[:32]), int.from_bytes(bytes(share[32:]), "big")
    return [int.from_bytes(low[2 * i : 2 * i + 2], "little") + (high >> (15 - i) & 1) * 65536 for i in range(16)]


def value_at(place: int, points: Sequence[int], values: Sequence[int]) -> int:
    """Lagrange's formula in Python's integers."""
    total = 0
    for x, y in zip(points, values, strict=True):
        above = below = 1
        for other in points:
            if other != x:
                above, below = above * (place - other), below * (x - other)
        total += y * above * pow(below, -1, 65537)
    return total % 65537


@given(secrets, secrets, st.integers(1, 12), st.data())
def test_any_threshold_of_shares_give_the_secret_and_lie_on_one_polynomial(
    secret: bytes, key: bytes, threshold: int, data: st.DataObject
):
    members = data.draw(st.integers(threshold, 15))
    shares = shamir.share(secret, threshold, range(1, members + 1), key)
    points = data.draw(st.permutations(range(1, members + 1)))
    used = points[:threshold]
    assert shamir.reconstruct(np.array(used), shares[np.array(used) - 1][:, None]) == [secret]
    values = [shared_numbers(shares[point - 1]) for point in used]
    by_limb = list(zip(*values, strict=True))
    assert b"".join(value_at(0, used, limb).to_bytes(2, "little") for limb in by_limb) == secret
    for point in points[threshold:]:
        assert [value_at(point, used, limb) for limb in by_limb] == shared_numbers(shares[point - 1])


def test_with_one_share_too_few_every_secret_is_as_likely_as_every_other():
    """The last share that is needed can have 65,537 values, and each makes the secret another one."""
    shares = shamir.share(KEY, 3, range(1, 4), bytes(32))
    known = [shared_numbers(shares[0])[0], shared_numbers(shares[1])[0]]
    last = np.arange(65537)
    values = np.stack([np.full(65537, known[0]), np.full(65537, known[1]), last])
    found = shamir.constants(np.array([1, 2, 3]), values)
    assert sorted(found.tolist()) == last.tolist()
    assert found[shared_numbers(shares[2])[0]] == int.from_bytes(KEY[:2], "little")


def test_shares_alone_are_uniform_whatever_the_secret():
    shares = np.stack([shamir.share(bytes(32), 2, range(1, 3), key_of(seed)) for seed in range(4000)])
    for point in range(2):
        assert chisquare(np.bincount(shares[:, point, :32].ravel(), minlength=256)).pvalue > 1e-4


def key_of(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(32)


def test_a_share_of_2_to_the_16_which_needs_17_bits_is_as_good_as_any():
    shares = np.concatenate([shamir.share(KEY, 2, range(1, 101), key_of(seed)) for seed in range(100)])
    found = int(np.flatnonzero(shares[:, 32:].any(axis=1))[0])
    assert 65536 in shared_numbers(shares[found])
    first = found // 100 * 100  # of the shares by the same polynomials
    other = first + (found + 1) % 100
    points = np.array([found - first, other - first]) + 1
    assert shamir.reconstruct(points, shares[[found, other]][:, None]) == [KEY]


def test_shares_of_a_thousand_members_are_exact():
    """Sums of 667 products of numbers of 17 bits."""
    shares = shamir.share(b"\xff" * 32, 667, range(1, 1001), KEY)
    used = random.Random(0).sample(range(1, 1001), 667)
    assert shamir.reconstruct(np.array(used), shares[np.array(used) - 1][:, None]) == [b"\xff" * 32]
    assert value_at(0, used, [shared_numbers(shares[point - 1])[5] for point in used]) == 65535


def test_shares_of_different_secrets_are_noticed_where_they_can_be():
    values = np.zeros((1, 1, shamir.SHARE), np.uint8)
    values[0, 0, 32:] = 255  # 2 ** 16, which no number of a secret is
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.reconstruct(np.array([1]), values)


def test_draws_from_which_no_remainder_is_uniform_are_rejected(monkeypatch: pytest.MonkeyPatch):
    """2 ** 32 - 1 would be 0 once too often."""
    words = np.array([5, 2**32 - 1, 65537, 2**32 - 2, *range(7, 30)], "<u4")
    monkeypatch.setattr(shamir, "keystream", lambda key, length: words.tobytes()[:length])
    assert shamir._uniform(KEY, 4).tolist() == [5, 0, 65536, 7]


# In rounds

SGD = LocalTraining(epochs=1, batch_size=32, optimizer="sgd", lr=0.05)
OPEN: dict[str, Any] = {
    "model": Logistic(), "local": SGD, "clients_per_round": 5, "evaluate_clients": False, "objective": "clients",
}  # fmt: skip
SECURE: dict[str, Any] = OPEN | {"secure_aggregation": "bonawitz"}

SETTINGS: dict[str, Any] = {key: value for key, value in OPEN.items() if key != "model"}
BARE = ClientReport(1, 0, 10, 1, None, None, None, 0, None, None, None)

Rounds = list[tuple[ServerState, Round]]


def plainly(folder: Path, test: Path, **setting: Any) -> Rounds:
    return federate(folder, test, **(OPEN | setting))


def masked(folder: Path, test: Path, *, threshold: float = 0.6, dropout_after: float = 0.0, **setting: Any) -> Rounds:
    block: Any = {"threshold": threshold, "dropout_after": dropout_after}
    return federate(folder, test, **(SECURE | {"bonawitz": block} | setting))


def same_models(some: Rounds, others: Rounds) -> bool:
    return len(some) == len(others) and all(
        same(one.parameters, other.parameters)
        and same(one.strategy, other.strategy)
        and one.last_rounds == other.last_rounds
        for (one, _), (other, _) in zip(some, others, strict=True)
    )


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"objective": "examples", "stragglers": 0.5, "local": SGD.model_copy(update={"epochs": 2})},
        {"strategy": "fedadam"},
        {"strategy": "scaffold"},
        {"strategy": "feddyn"},
        {"strategy": "fedbn", "model": ReferenceBatchNormCNN(), "rounds": 1},
        {"model": ReferenceBatchNormCNN(), "rounds": 1},
        {"transforms": "clip"},
        {"compression_down": "qsgd", "entropy_coding": "zlib"},
        {"attack": "sign-flip", "attackers": 0.4},
        {"privacy": "tree", "sampling": "shuffled", "clients_per_round": 3},
        {"sampling": "poisson", "clients_per_round": 4},
        {"sampling": "size", "clients_per_round": 5},
    ],
    ids=str,
)
def test_the_model_has_the_same_bits_with_and_without(
    setting: dict[str, Any], folder: Path, test: Path, tmp_path: Path
):
    expected = plainly(folder, test, states=tmp_path / "plain", **setting)
    found = masked(folder, test, states=tmp_path / "masked", **setting)
    assert not any(round.skipped for _, round in found)
    assert same_models(found, expected)


def test_each_round_has_the_same_bits_whoever_drops_out_before_masking_and_after(folder: Path, test: Path):
    """Where enough are left: others are skipped."""
    protocol, before, compared = Bonawitz(threshold=0.6, dropout_after=0.2), None, 0
    for state, round in masked(folder, test, dropout_after=0.2, dropout=0.2, rounds=20):
        arrived = {member.client for member in round.cohort.members}
        left = {client for client in arrived if protocol.leaves(11, round.number, client)}
        assert round.skipped == (len(arrived - left) < 3)
        assert round.lost == ()
        if round.skipped:
            assert same(state.parameters, before.parameters if before else start_of(Logistic()))
            assert state.last_rounds == (before.last_rounds if before else {})
        else:
            assert {report.client for report in round.clients} == arrived
            plain = plainly(folder, test, state=before, stop=1, dropout=0.2, rounds=20)
            assert same_models([(state, round)], plain)
            compared += bool(left and round.cohort.dropped)
        before = state
    assert compared > 1


@pytest.mark.parametrize(("engine", "workers"), [("threads", 1), ("processes", 3), ("ray", 2)])
def test_the_engine_changes_nothing(engine: Any, workers: int, folder: Path, test: Path):
    compute = Compute(engine=engine, workers=workers, device="cpu")
    found = masked(folder, test, dropout_after=0.2, dropout=0.1, compute=compute)
    expected = masked(folder, test, dropout_after=0.2, dropout=0.1)
    assert same_models(found, expected)
    assert [round.row() for _, round in found] == [round.row() for _, round in expected]


def test_a_run_goes_on_from_any_round_with_the_same_bits(folder: Path, test: Path, tmp_path: Path):
    def rounds(folder_of_states: str, **more: Any) -> Rounds:
        states = tmp_path / folder_of_states
        return masked(folder, test, dropout_after=0.2, dropout=0.1, strategy="scaffold", states=states, **more)

    first = rounds("part", stop=1)
    assert same_models(first + rounds("part", state=first[-1][0]), rounds("whole"))


def test_a_skipped_round_sends_what_it_sent_until_then(folder: Path, test: Path):
    """All drop out before they mask: keys, shares and the model were sent, and no masked numbers."""
    [(state, round)] = masked(folder, test, rounds=1, threshold=1.0, dropout=0.99, seed=12)
    assert round.skipped
    assert same(state.parameters, start_of(Logistic(), seed=12))
    run = run_of(round.cohort.drawn, 5, seed=12, round=1)
    run.until_masked((), (), ())
    assert round.cohort.members == ()
    assert round.bytes_up == sum(map(len, [*run.server.keys.values(), *run.shares.values()]))


@pytest.mark.parametrize("clients_per_round", [2, 3, 5])
def test_the_bytes_are_those_of_all_messages(clients_per_round: int, folder: Path, test: Path):
    [(_, round)] = masked(folder, test, rounds=1, clients_per_round=clients_per_round)
    [(_, plain)] = plainly(folder, test, rounds=1, clients_per_round=clients_per_round)
    run = run_of(round.cohort.drawn, Bonawitz(threshold=0.6).needed(clients_per_round), seed=11, round=1, length=7850)
    run.until_masked((), (), ())
    run.until_unmasked(())
    requests = [run.server.share_request(), run.server.mask_request(run.shares)]
    down = clients_per_round * sum(map(len, requests)) + sum(map(len, run.unmask_requests().values()))
    assert round.bytes_down == plain.bytes_down + down
    answers = [*run.server.keys.values(), *run.shares.values(), *run.masked.values(), *run.answers.values()]
    assert round.bytes_up == sum(map(len, answers)) + sum(map(len, round.clients))


def hidden_and_plain(folder: Path, states: Path, clients: Sequence[int], **settings: Any) -> tuple[Any, Any, Run]:
    """What a worker sends on of some clients with and without masks, and all that was sent in the round."""
    client = client_of(
        folder, states, architecture=Logistic().on(MNIST), local=SGD, evaluate_clients=False,
        secure_aggregation="bonawitz", **settings,
    )  # fmt: skip
    broadcast, tasks = first_round(start_of(Logistic())), [task_of(k, epochs=1) for k in clients]
    run = run_of(range(5), 3, seed=client.seed, round=1, length=7850)
    run.until_masked((), (), ())
    mask = MaskNumbers(client.seed, run.server.mask_request(run.shares))
    return TrainAndMask(client)((broadcast, mask), tasks), TrainAndSum(client)(broadcast, tasks), run


def test_what_reaches_the_server_is_masked_and_tells_nothing_of_how_training_went(folder: Path, tmp_path: Path):
    hidden, plain, _ = hidden_and_plain(folder, tmp_path, [3])
    numbers = hidden.sum.vectors["delta"].numpy()
    assert chisquare(np.bincount(numbers.view(np.uint8), minlength=256)).pvalue > 1e-4
    assert chisquare(np.bincount(plain.sum.vectors["delta"].numpy().view(np.uint8), minlength=256)).pvalue < 1e-100
    assert not (numbers == plain.sum.vectors["delta"].numpy()).any()
    assert replace(hidden.sum, vectors={}) == replace(plain.sum, vectors={}, largest=0)
    (report,) = hidden.reports
    assert report == ClientReport(1, 3, SIZES[3], 1, None, None, None, 0, None, None, update_norm=None)


def test_partial_sums_of_masked_numbers_are_added_up_where_clients_run(folder: Path, tmp_path: Path):
    hidden, plain, run = hidden_and_plain(folder, tmp_path, range(5))
    run.masked = {k: MaskedInput(k, torch.zeros(7850, dtype=torch.int64)) for k in range(5)}
    negative = run.until_unmasked(())  # the masks taken away from nothing
    found = hidden.sum.vectors["delta"].numpy().view(np.uint64) + negative
    assert (found.view(np.int64) == plain.sum.vectors["delta"].numpy()).all()


class Spoilt(Transform):
    """Client 2 sends a number that is none."""

    def on_client(self, update: Update, context: ClientContext) -> Update:
        return replace(update, delta=update.delta / 0) if context.client == 2 else update


def test_a_client_with_numbers_that_cannot_be_added_up_sends_none(folder: Path, test: Path):
    expected, found = (rounds(folder, test, transforms=Spoilt()) for rounds in (plainly, masked))
    assert same_models(found, expected)
    for (_, one), (_, other) in zip(expected, found, strict=True):
        assert [refusal.client for refusal in one.refusals] == [2]
        assert other.refusals == ()
        assert other.lost == (2,)


@pytest.mark.parametrize(("value", "fits"), [(2**20, True), (-(2**20), True), (2**21, False), (-(2**21), False)])
def test_sums_without_weights_that_may_leave_the_range_modulo_2_to_the_64_are_not_sent(value: int, fits: bool):
    """Four clients' numbers below 2 ** 60 add up to less than 2 ** 62."""
    run = run_of(range(4), 3)
    run.until_masked((), (), ())
    mask = MaskNumbers(0, run.server.mask_request(run.shares))
    own = ExactSum({"sums/s": torch.tensor([0, value * 2**39])}, {"sums/s": 1.0})
    if fits:
        message, added = mask(1, own)
        assert torch.equal(message.numbers, added.numbers())
    else:
        with pytest.raises(Refused, match=r"^its sums/s may leave the range of the sum$"):
            mask(1, own)


class Scalars(FedAvg):
    """A strategy of somebody's own that sends a scalar and does not say so."""

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        return replace(update, scalars={"steps": float(result.steps)})


def test_scalars_which_cannot_be_masked_are_not_sent_in_the_open(folder: Path, test: Path):
    with pytest.raises(UserError, match="adds up vectors, and the updates hold numbers besides: steps"):
        masked(folder, test, strategy=Scalars())


class OwnMean(Mean):
    """An integer sum of somebody's own: another result of the same sum."""

    def result(self, total: ExactSum, context: ServerContext) -> Aggregate:
        aggregate = super().result(total, context)
        return replace(aggregate, delta=aggregate.delta / 2)


def test_any_sum_of_whole_numbers_may_be_masked(folder: Path, test: Path):
    found, expected = (rounds(folder, test, aggregation=OwnMean()) for rounds in (masked, plainly))
    assert same_models(found, expected)


@pytest.mark.parametrize("quantile", [None, 0.5])
def test_the_clipped_sums_of_privacy_may_be_masked(quantile: float | None):
    """With the bit by which the clip adapts, if it does."""
    privacy = {"privacy": "gaussian", "sampling": "poisson", "gaussian": {"quantile": quantile}}
    aggregator = settings_of(**(SETTINGS | privacy)).aggregator
    updates = [Update(k, 0.2, BARE, torch.randn(6, generator=torch.Generator().manual_seed(k))) for k in range(5)]
    plain = hidden = aggregator.empty()
    run = run_of(range(5), 3, length=6 if quantile is None else 7)
    run.until_masked((), (), ())
    mask = MaskNumbers(0, run.server.mask_request(run.shares))
    for k, update in enumerate(updates):
        plain = aggregator.merge(plain, aggregator.contribution(update))
        message, masked = mask(k, aggregator.contribution(update))
        run.masked[k] = sent(message)
        hidden = aggregator.merge(hidden, masked)
    numbers = torch.from_numpy(run.until_unmasked(()).view(np.int64))
    assert torch.equal(numbers, plain.numbers())
    assert same(hidden.with_numbers(numbers).vectors, plain.vectors)
    assert run.length == len(numbers)


# What does not go together

ALLOWED: dict[str, Any] = SETTINGS | {"secure_aggregation": "bonawitz"}
PRIVATE: dict[str, Any] = {"privacy": "tree", "sampling": "shuffled"}


class First(Collecting):
    """An aggregation that needs each update."""

    def result(self, total: Collected, context: ServerContext) -> Aggregate:
        return Aggregate(total.in_order()[0].delta.double())


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        (
            {"aggregation": First()},
            "aggregation: First does not go with secure_aggregation bonawitz: it needs each update",
        ),
        ({"aggregation": "norm-bounding"}, "aggregation: norm-bounding does not go .*; mean would do"),
        ({"aggregation": "median", "mixing": "nnm"}, "aggregation: median does not go .*; mean would do"),
        ({"strategy": "fednova"}, "strategy: fednova .*: the norms ‖a_k‖₁ are fractions of any length in the sum"),
        ({"strategy": "q-fedavg"}, "strategy: q-fedavg .*: the scalars h_k are fractions of any length in the sum"),
        (
            {"compression": "float16"},
            "compression: float16 .* random, so that nothing can be left out of them; none would",
        ),
        ({"attack": "alie"}, "attack: alie does not go .* its attackers go by updates that they could not see"),
        (
            {"evaluate_clients": True},
            "evaluate_clients: true does not go .* would tell what masks hide; false would do",
        ),
        ({"on_bad_update": "stop"}, "on_bad_update: stop does not go .* only its client can tell a bad update"),
        ({"clients_per_round": 1}, "clients_per_round: 1 does not go .* the sum of one update is that update"),
        (PRIVATE | {"dropout": 0.1}, "privacy: tree does not go .*; a dropout and a dropout_after of 0 would do"),
        (PRIVATE | {"bonawitz": {"dropout_after": 0.1}}, "privacy: tree does not go .* for which no epsilon accounts"),
        (
            PRIVATE | {"privacy": "gaussian", "sampling": "poisson", "clients_per_round": 31},
            "clients_per_round: 31 does not go with secure_aggregation .* must be all but impossible; 32 would do",
        ),
        ({"bonawitz": {"threshold": 0.5}}, "greater than 0.5"),
    ],
)
def test_what_needs_single_updates_is_refused_with_the_reason(setting: dict[str, Any], why: str):
    assert settings_of(**ALLOWED).protocol.hides_updates
    with pytest.raises(ValidationError, match=why):
        settings_of(**(ALLOWED | setting))


@pytest.mark.parametrize("setting", [{}, {"privacy": "gaussian", "sampling": "poisson", "clients_per_round": 32}])
def test_privacy_goes_with_it_where_nobody_drops_out(setting: dict[str, Any]):
    assert settings_of(**(ALLOWED | PRIVATE | setting)).mechanism.is_private


def test_cohorts_of_32_on_average_have_two_clients_but_in_one_case_of_a_million_million():
    for clients in (32, 100, 1000, 10**6):
        assert binom.cdf(1, clients, 32 / clients) < 1e-12


@pytest.mark.parametrize("name", AGGREGATORS)
def test_of_the_aggregations_the_mean_alone_may_be_masked(name: str):
    """Of no other is the result a function of the sum of what clients can compute by themselves."""
    assert AGGREGATORS[name].maskable == (name == "mean")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_says_whether_it_sends_scalars(name: str, folder: Path, tmp_path: Path):
    local = SGD.model_copy(update={"epochs": 1})
    client = client_of(folder, tmp_path, architecture=Logistic().on(MNIST), local=local, strategy=name)
    control = {"control": torch.zeros(7850)}
    update = client.update(replace(first_round(start_of(Logistic())), extra=control), task_of(1, epochs=1))
    assert STRATEGIES[name].sends_scalars == bool(update.scalars)


@given(st.integers(2, 10_000), st.floats(0.51, 1))
def test_the_threshold_is_the_least_whole_number_that_is_that_part_of_the_cohort_and_more_than_half(
    clients: int, part: float
):
    needed = Bonawitz(threshold=part).needed(clients)
    assert 2 <= needed <= clients
    assert 2 * needed > clients
    assert needed >= part * clients - 1e-5
    assert needed == 2 or needed - 1 < part * clients


def test_clients_drop_out_after_masking_with_the_probability_of_the_parameter():
    protocol = Bonawitz(dropout_after=0.3)
    left = [[protocol.leaves(1, round, client) for client in range(200)] for round in range(1, 21)]
    assert abs(np.mean(left) - 0.3) < 4 * (0.3 * 0.7 / np.size(left)) ** 0.5
    assert np.std(np.mean(left, axis=0)) > 0  # not the same clients in every round
    assert not any(Bonawitz().leaves(1, 1, client) for client in range(1000))


def test_rounds_of_private_clients_tell_the_bytes_of_a_cohort_of_average_size(folder: Path, test: Path):
    """Which are those that were sent, to within the digits of clients' numbers, where the cohort has that size."""
    setting: dict[str, Any] = {"rounds": 1, "clients_per_round": 3}
    [(_, private)] = masked(folder, test, **PRIVATE, **setting)
    [(_, open_)] = masked(folder, test, **setting)
    assert private.cohort.drawn == ()
    assert abs(private.bytes_up - open_.bytes_up) < 100
    assert abs(private.bytes_down - open_.bytes_down) < 100
