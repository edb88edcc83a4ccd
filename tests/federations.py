"""Small federations on real images, for the tests: five clients of unequal sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fedpipe import shards
from fedpipe.client import ClientReport, Local
from fedpipe.datasets import load
from fedpipe.engines import Compute
from fedpipe.federated import Federated, Round, Work, run
from fedpipe.models import Model, Parameters, initial_parameters
from fedpipe.models.reference_cnn import ReferenceCNN
from fedpipe.strategies import ServerState

MODEL = ReferenceCNN()
LOCAL = Local(epochs=2, batch_size=32, optimizer="adam", lr=1e-3)
THREADS = Compute(engine="threads", workers=2, device="cpu")
SIZES = (100, 40, 250, 60, 150)  # unequal, so that a mean without weights would show


def settings_of(*, own: dict[str, Any] | None = None, **changes: Any) -> Federated:
    """Settings with `own` as the strategy's parameters."""
    defaults = {"rounds": 3, "clients_per_round": 3, "local": LOCAL}
    blocks = {changes["strategy"]: own} if own else {}
    return Federated.model_validate(defaults | changes | blocks)


def federate(
    folder: Path, test: Path, *, seed: int = 11, model: Model = MODEL, compute: Compute = THREADS,
    states: Path = Path("no-states"), state: ServerState | None = None, stop: int | None = None,
    on_client: Callable[[ClientReport], None] = lambda report: None, **settings: Any,
) -> list[tuple[ServerState, Round]]:  # fmt: skip
    """The rounds of a federation, of those settings that are not the usual ones; at most `stop` of them."""
    state = state or ServerState(0, initial_parameters(model, seed))
    work = Work(settings_of(**settings), model, seed, test, states, compute)
    with compute.start(work) as map:
        rounds = run(state, work, shards.locate(folder), len(load(test)), map, on_client=on_client)
        return [done for done, _ in zip(rounds, range(stop or 10**6), strict=False)]


def same(one: Parameters, other: Parameters) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
