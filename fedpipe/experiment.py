"""An experiment, and the one way to run it: stages, benchmarks and tests all go through here."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from fedpipe.config.section import Section, Seed
from fedpipe.data import datasets
from fedpipe.data.store import MANIFEST, open_store
from fedpipe.engines import Compute
from fedpipe.federated.attacks.base import Attack
from fedpipe.federated.client import Client
from fedpipe.federated.holdout import EvaluateHoldouts, HoldoutReport
from fedpipe.federated.mechanisms.base import Guarantee
from fedpipe.federated.rounds import OnClients, Round, run_rounds
from fedpipe.federated.settings import Federated
from fedpipe.federated.state import ServerState
from fedpipe.federated.testing import EvaluateParts, parts
from fedpipe.models.parameters import Parameters, initial_parameters
from fedpipe.models.settings import ModelChoice
from fedpipe.system.checkpoints import checkpoints, origin
from fedpipe.system.records import Record
from fedpipe.training.evaluation import Evaluation, Evaluations, Evaluator


class Experiment(Section):
    """A federated training: all that its result follows from, and how it is computed."""

    seed: Seed = 42
    model: ModelChoice = Field(default=ModelChoice(), description="The network that is trained.")
    federated: Federated = Field(default=Federated(), description="Federated training.")
    compute: Compute = Field(default=Compute(), description="How and where it is computed.")


@dataclass(frozen=True)
class FederatedData:
    """Where an experiment's data lies."""

    dataset: Path  # a folder, as `fedpipe.data.datasets.save` writes it, of which train.safetensors is not needed
    clients: Path  # a folder of clients' examples, as `fedpipe.data.store.write` writes it


@dataclass(frozen=True)
class Result(datasets.OnDataset):
    """What an experiment came to."""

    state: ServerState
    history: tuple[Round, ...]
    guarantee: Guarantee | None  # what clients are promised

    @property
    def evaluations(self) -> Evaluations:
        """Those of the last model that was evaluated, which in the end is the last one."""
        return next(round.evaluations for round in reversed(self.history) if round.evaluations.deciding)

    @property
    def test(self) -> Evaluation:
        """The evaluation on the test set. With validation data there is none before training is over."""
        assert self.evaluations.test, "training is over"
        return self.evaluations.test

    def round_rows(self) -> list[dict[str, Any]]:
        """Return the rows of rounds.csv."""
        processed = accumulate(round.examples_processed for round in self.history)
        sent = accumulate(round.bytes_down + round.bytes_up for round in self.history)
        return [
            round.row() | {"bytes_total": so_far, "examples_processed": examples} | self._cost(round)
            for round, so_far, examples in zip(self.history, sent, processed, strict=True)
        ]

    def _cost(self, round: Round) -> dict[str, Any]:
        """Return what clients' privacy has cost after a round, as columns of its row."""
        if self.guarantee is None:
            return {}
        rdp, pld = self.guarantee.epsilon_rdp(round.number), self.guarantee.epsilon_pld(round.number)
        clip = {} if round.clip is None else {"clip": round.clip}
        return {"epsilon_rdp": rdp, "epsilon_pld": pld, **clip}

    def client_rows(self) -> list[dict[str, Any]]:
        """Return the rows of clients.csv."""
        return [
            vars(client) | ({} if round.hostile is None else {"hostile": int(client.client in round.hostile)})
            for round in self.history
            for client in round.clients
        ]

    def timing_rows(self) -> list[dict[str, Any]]:
        """Return the rows of timings.csv, which two runs never have in common."""
        return [
            {
                "round": round.number,
                "training_seconds": round.training_seconds,
                "evaluation_seconds": round.evaluation_seconds,
            }
            for round in self.history
        ]

    def headline(self) -> dict[str, Any]:
        """Return the few figures that `dvc metrics` shows of federated training, without a value if it diverged.

        Returns:
            accuracy, loss: on the test set. validation_accuracy, validation_loss: if there are validation data. sample:
            whether this is MNIST's sample, and not MNIST. epsilon: what all rounds may cost, if clients are promised
            privacy.
        """
        figures = self.evaluations.metrics() | self._attacked()
        promised = {"epsilon": self.guarantee.epsilon} if self.guarantee else {}
        trained = dict.fromkeys(figures) if self.state.diverged else figures
        return {**trained, **promised, "sample": self.data.is_sample}

    def figures(self) -> dict[str, Any]:
        """Return all figures of the training as a whole."""
        return {
            "dataset": self.dataset,
            **self.evaluations.metrics(),
            **self._attacked(),
            "diverged": self.state.diverged,
            "rounds": len(self.history),
            "skipped_rounds": sum(round.skipped for round in self.history),
            "examples_processed": sum(round.examples_processed for round in self.history),
            "bytes_down": sum(round.bytes_down for round in self.history),
            "bytes_up": sum(round.bytes_up for round in self.history),
            **(self.guarantee.figures() if self.guarantee else {}),
        }

    def _attacked(self) -> dict[str, float | None]:
        """Return the figures that there are where attackers have a backdoor."""
        backdoor = self.evaluations.backdoor
        return {} if backdoor is None else {"backdoor_success": backdoor}


@dataclass(frozen=True)
class Progress(Record):
    """What a federated training goes on from."""

    state: ServerState
    round: Round  # the last one


def run(
    experiment: Experiment,
    data: FederatedData,
    *,
    states: Path | None = None,
    checkpoint: Path | None = None,
    recorded_in: Path | None = None,
    on_resume: Callable[[Result], None] = lambda result: None,
    on_round: Callable[[Result], None] = lambda result: None,
    on_clients: OnClients = lambda reports: None,
    on_end: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Run an experiment to its end.

    With checkpoints, a run that was interrupted goes on after the last round that was saved, with the same bits as if
    it had not been.

    Args:
        experiment: its parameters.
        data: its data.
        states: as in `iterate`. With checkpoints, it is beside them.
        checkpoint: a folder for the checkpoints of any number of experiments; None saves none.
        recorded_in: a file that somebody writes who records the result, such as dvc.lock: until then its checkpoints
            stay. None deletes them in the end.
        on_resume: told of what was done before, if the run goes on from a checkpoint.
        on_round: told of what is done after each round.
        on_clients: told of clients as their updates arrive.
        on_end: told of the result before its checkpoints are deleted, to save it.

    Raises:
        UserError: the data is missing or damaged, a parameter does not fit the data, or the engine does not work here.
    """
    description = datasets.describe(data.dataset / "dataset.json")
    guarantee = experiment.federated.guarantee(len(open_store(data.clients.resolve())))
    seconds = experiment.compute.checkpoint_every

    def follows_from() -> dict[str, Any]:
        parameters = experiment.model_dump(mode="json", exclude={"compute"})
        compute, files = experiment.compute, [data.dataset / "dataset.json", data.clients / MANIFEST]
        return origin(parameters, compute.precision, compute.torch_device(), files)

    with checkpoints(checkpoint, follows_from, Progress, Round, seconds) as saved:
        begun, rounds = saved.load() or (None, [])
        state = begun and begun.state
        if begun:
            rounds[-1] = begun.round

        def result() -> Result:
            assert state is not None, "there is at least one round"
            return Result(description, state, tuple(rounds), guarantee)

        if begun:
            on_resume(result())
        if saved.own_files:
            states, oldest = saved.own_files, lambda: saved.oldest
        else:
            oldest = None
        training = iterate(experiment, data, state=state, states=states, oldest=oldest, on_clients=on_clients)
        for state, round in training:
            rounds[-1:] = [*(earlier.without_confusion() for earlier in rounds[-1:]), round]
            on_round(result())
            saved.save(round.number, Progress(state, round), round.without_confusion())
        on_end(result())
        saved.finish(recorded_in)
        return result()


def iterate(
    experiment: Experiment,
    data: FederatedData,
    *,
    state: ServerState | None = None,
    states: Path | None = None,
    oldest: Callable[[], int] | None = None,
    on_clients: OnClients = lambda reports: None,
) -> Iterator[tuple[ServerState, Round]]:
    """Run an experiment round by round: yield the state after each round, and what the round did.

    Args:
        experiment: its parameters.
        data: its data.
        state: one that this function yielded, to go on from; None begins.
        states: a folder for clients' own states, which all machines must see. A run can go on from a state only with
            the folder as it was left. None takes a temporary folder of this machine.
        oldest: returns the round of the oldest state that the caller may go on from; None means the one yielded last.
        on_clients: told of clients as their updates arrive.

    Raises:
        UserError: as `run`.
    """
    description = datasets.describe(data.dataset / "dataset.json")
    architecture = experiment.model.model.on(description.spec)
    store = open_store(data.clients.resolve())
    with ExitStack() as stack:
        if states is None:
            states = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedpipe-")))
        client = Client(
            experiment.federated, architecture, experiment.seed, data.clients.resolve(), states.resolve(), len(store),
            experiment.compute,
        )  # fmt: skip
        run_tasks = stack.enter_context(experiment.compute.start())

        def on(data_set: str, examples: int) -> Callable[[Parameters], Evaluation]:
            file, attack = data.dataset.resolve() / f"{data_set}.safetensors", experiment.federated.hostility

            def evaluated(parameters: Parameters, attack: Attack | None = None) -> Evaluation:
                job = EvaluateParts(architecture, file, experiment.compute, attack)
                results = run_tasks(job, parameters, parts(examples))
                return Evaluation.of((part for several in results for part in several), description.classes)

            def evaluate(parameters: Parameters) -> Evaluation:
                found = evaluated(parameters)
                if not attack.has_trigger:
                    return found
                return replace(found, backdoor=attack.success(evaluated(parameters, attack).confusion))

            return evaluate

        held_back = description.validation_examples
        evaluator = Evaluator(on("test", description.test_examples), on("validation", held_back) if held_back else None)
        state = state or ServerState(0, initial_parameters(architecture, experiment.seed))
        yield from run_rounds(state, client, store.sizes, run_tasks, evaluator, oldest=oldest, on_clients=on_clients)


def evaluate_holdouts(experiment: Experiment, data: FederatedData, parameters: Parameters) -> list[HoldoutReport]:
    """Evaluate a model on what each client of the population holds out, and return a report for each, ascending.

    It is the server's model, without what a client may keep of its own, such as FedBN's normalisation. Each client
    evaluates it on its own examples, where clients run. If the experiment says that clients do not evaluate, none does.

    Args:
        experiment: its parameters.
        data: its data.
        parameters: of the model.

    Raises:
        UserError: as `run`.
    """
    description = datasets.describe(data.dataset / "dataset.json")
    store = open_store(data.clients.resolve())
    sizes = [store.held_out_size(client) for client in range(len(store))]
    reports = {client: HoldoutReport(client, size, None, None) for client, size in enumerate(sizes)}
    tested = [client for client, size in enumerate(sizes) if size and experiment.federated.evaluate_clients]
    if tested:
        job = EvaluateHoldouts(
            experiment.model.model.on(description.spec), data.clients.resolve(), experiment.compute
        )  # fmt: skip
        with experiment.compute.start() as run_tasks:
            for some in run_tasks(job, parameters, tested):
                reports.update({report.client: report for report in some})
    return list(reports.values())


def holdout_rows(experiment: Experiment, holdouts: Sequence[HoldoutReport]) -> list[dict[str, Any]]:
    """Return the rows of holdout.csv, which tell attackers from honest clients if there is an attack.

    Args:
        experiment: its parameters.
        holdouts: a report for each client of the population.
    """
    if not experiment.federated.is_attacked:
        return [vars(report) for report in holdouts]
    hostile = experiment.federated.hostile(experiment.seed, len(holdouts))
    return [vars(report) | {"hostile": int(report.client in hostile)} for report in holdouts]


def attack_figures(experiment: Experiment, holdouts: Sequence[HoldoutReport]) -> dict[str, Any]:
    """Return the figures that there are if there is an attack.

    Args:
        experiment: its parameters.
        holdouts: a report for each client of the population.

    Returns:
        attackers: how many of the clients are hostile. honest_accuracy: the mean accuracy of the last model on what the
        honest clients hold out, each of which counts alike; None if they hold out nothing.
    """
    if not experiment.federated.is_attacked:
        return {}
    hostile = experiment.federated.hostile(experiment.seed, len(holdouts))
    honest = [one.accuracy for one in holdouts if one.client not in hostile and one.accuracy is not None]
    return {"attackers": len(hostile), "honest_accuracy": fmean(honest) if honest else None}
