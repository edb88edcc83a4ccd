"""What lasts from round to round: the server's whole state as a value, and each client's own state on its disk."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from torch import Tensor

from fedpipe.federated.messages import ClientReport, State
from fedpipe.system.files import reading
from fedpipe.system.records import Record
from fedpipe.system.saved import load, save
from fedpipe.training.evaluation import Evaluation


@dataclass(frozen=True)
class ServerState(Record):
    """All that a round needs of the rounds before it."""

    round: int  # rounds done
    parameters: Mapping[str, Tensor]  # of the model, buffers too
    strategy: State = field(default_factory=dict)  # what the strategy's server remembers
    transforms: Mapping[str, State] = field(default_factory=dict)  # what each transform's server remembers, by name
    last_rounds: Mapping[int, int] = field(default_factory=dict)  # client: the round of its last update that counted
    aggregation: State = field(default_factory=dict)  # what the aggregation remembers
    best_loss: float = float("inf")  # of the evaluations so far, on validation data or on the test set
    evaluations_since_best: int = 0
    accuracy: float = 0.0  # of the last evaluation
    diverged: bool = False  # as that evaluation shows

    def after_updates(
        self, reports: Iterable[ClientReport], transforms: Mapping[str, State], aggregation: State
    ) -> Self:
        """Return the state in which these clients' updates counted, and transforms and aggregation remember this."""
        # In an order of its own, not that in which they arrived: equal states have equal bytes.
        counted = {report.client: report.round for report in sorted(reports, key=lambda report: report.client)}
        last_rounds = {**self.last_rounds, **counted}
        return replace(self, last_rounds=last_rounds, transforms=transforms, aggregation=aggregation)

    def after_round(self, round: int, evaluation: Evaluation | None, classes: int) -> Self:
        """Return the state after a round, with what early stopping needs of its evaluation, if there was one.

        Args:
            round: its number.
            evaluation: of its model, by which training is stopped.
            classes: how many labels there are.
        """
        if evaluation is None:
            return replace(self, round=round)
        better = evaluation.loss < self.best_loss  # never, if training diverged and the loss is NaN
        return replace(
            self,
            round=round,
            best_loss=evaluation.loss if better else self.best_loss,
            evaluations_since_best=0 if better else self.evaluations_since_best + 1,
            accuracy=evaluation.accuracy,
            diverged=evaluation.diverged(classes),
        )


@dataclass(frozen=True)
class ClientState(Record):
    """What a client remembers after a round."""

    client: int
    round: int
    parts: Mapping[str, State]  # by what they belong to: the strategy, or a transform


class ClientStates:
    """Clients' own states on their disk: a folder for each client, a file for each round that it may go on from.

    The server's word decides which one counts: a task names the round of the client's last update that arrived and
    counted. The file of a round whose update was lost is never read. A run can go on, exactly, from the state after any
    round since the oldest that the server names.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, client: int, round: int) -> Mapping[str, State]:
        """Return a client's state after a round, by the part that it belongs to; empty after round 0.

        Raises:
            UserError: the file is missing or damaged, or is another client's or another round's.
        """
        if not round:
            return {}
        file = self._file(client, round)
        with reading(file, part_of=self._folder):
            state = load(ClientState, file)
            if (state.client, state.round) != (client, round):
                raise ValueError(f"it is client {state.client}'s, of round {state.round}")
        return state.parts

    def write(self, client: int, round: int, parts: Mapping[str, State], *, last_round: int, oldest_round: int) -> None:
        """Write a client's state after a round, and delete those that no run can go on from any more.

        Args:
            client: its number.
            round: the current one.
            parts: the state, by the part that it belongs to.
            last_round: of the client's last update that counted; 0 if none did.
            oldest_round: after which training may have to go on again.
        """
        file = self._file(client, round)
        file.parent.mkdir(parents=True, exist_ok=True)
        save(ClientState(client, round, parts), file)
        # Of the rounds before, those after the last that counted did not count; nor do those of a future given up.
        others = {other: _round(other) for other in file.parent.iterdir() if other != file}
        counted = {other: number for other, number in others.items() if 0 < number <= last_round}
        first = max((number for number in counted.values() if number <= oldest_round), default=0)
        for other in others:
            if counted.get(other, -1) < first:
                shutil.rmtree(other) if other.is_dir() else other.unlink()

    def _file(self, client: int, round: int) -> Path:
        return self._folder / f"client-{client:05d}" / f"round-{round:05d}.state"


def _round(file: Path) -> int:
    """Return the round whose state a file holds; 0 if it is no such file."""
    match = re.fullmatch(r"round-(\d+)\.state", file.name)
    return int(match[1]) if match else 0
