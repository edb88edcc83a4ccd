"""What lasts from round to round: the server's whole state as a value, and each client's own state on its disk."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from torch import Tensor

from fedpipe.federated.messages import ClientReport, State
from fedpipe.system.files import read_tensors, write_tensors
from fedpipe.training.evaluation import Evaluation


@dataclass(frozen=True)
class ServerState:
    """All that a round needs of the rounds before it."""

    round: int  # rounds done
    parameters: Mapping[str, Tensor]  # of the model, buffers too
    strategy: State = field(default_factory=dict)  # what the strategy's server remembers
    transforms: Mapping[str, State] = field(default_factory=dict)  # what each transform's server remembers, by name
    last_rounds: Mapping[int, int] = field(default_factory=dict)  # client: the round of its last update that counted
    best_loss: float = float("inf")  # of the evaluations on the test set so far
    evaluations_since_best: int = 0
    accuracy: float = 0.0  # of the last evaluation

    def after_updates(self, reports: Iterable[ClientReport], transforms: Mapping[str, State]) -> Self:
        """Return the state in which these clients' updates counted, and the transforms remember this."""
        counted = {report.client: report.round for report in reports}
        return replace(self, last_rounds={**self.last_rounds, **counted}, transforms=transforms)

    def after_round(self, round: int, test: Evaluation | None) -> Self:
        """Return the state after a round, with what early stopping needs of its evaluation, if there was one."""
        if test is None:
            return replace(self, round=round)
        better = test.loss < self.best_loss  # never, if training diverged and the loss is NaN
        return replace(
            self,
            round=round,
            best_loss=test.loss if better else self.best_loss,
            evaluations_since_best=0 if better else self.evaluations_since_best + 1,
            accuracy=test.accuracy,
        )


class ClientStates:
    """Clients' own states on their disk: a folder for each client, a file for each round that it may go on from.

    The server's word decides which one counts: a task names the round of the client's last update that arrived and
    counted. The file of a round whose update was lost is never read. So a client keeps two files, and a run can go on
    from the state before the current round, exactly.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, client: int, round: int) -> Mapping[str, State]:
        """Return a client's state after a round, by the part that it belongs to; empty after round 0.

        Raises:
            UserError: the file is missing or damaged.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        if round:
            for name, tensor in read_tensors(self._file(client, round)).items():
                part, _, key = name.partition("/")
                parts.setdefault(part, {})[key] = tensor
        return parts

    def write(self, client: int, round: int, parts: Mapping[str, State], *, last_round: int) -> None:
        """Write a client's state after a round; delete what is of neither this round nor the last that counted."""
        tensors = {f"{part}/{key}": tensor for part, state in parts.items() for key, tensor in state.items()}
        file = self._file(client, round)
        write_tensors(file, tensors)
        for other in file.parent.iterdir():
            if other not in (file, self._file(client, last_round)):
                shutil.rmtree(other) if other.is_dir() else other.unlink()

    def _file(self, client: int, round: int) -> Path:
        return self._folder / f"client-{client:05d}" / f"round-{round:05d}.safetensors"
