"""Every client alone: the model of federated training, trained on one client's own examples and no others.

What a client gains from federation is the difference. So that it is not a matter of effort, a client alone trains for
as many examples as federated training gives a client on average, by the same optimiser with the same settings.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedpipe.config.section import PositiveFloat, PositiveInt, Section, Seed
from fedpipe.data import datasets
from fedpipe.data.store import MANIFEST, ClientStore, open_store
from fedpipe.engines import Compute
from fedpipe.fairness import class_accuracies, own_labels_accuracy, spread
from fedpipe.federated.holdout import evaluate_holdout
from fedpipe.federated.settings import Federated
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import Parameters, initial_parameters, scratch_network_with
from fedpipe.models.settings import ModelChoice
from fedpipe.spec import DataSpec
from fedpipe.system.checkpoints import checkpoints, origin
from fedpipe.system.randomness import generator
from fedpipe.system.records import Record
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.evaluation import evaluate
from fedpipe.training.loop import train
from fedpipe.training.optimizers import OPTIMIZERS
from fedpipe.training.settings import Training


class Local(Section):
    """Train clients alone, each on its own examples."""

    epochs: PositiveFloat | None = Field(
        default=None,
        description="Passes of a client over its own examples; the last need not be whole. null takes as many as "
        "federated training gives a client on average: rounds x clients_per_round / clients x local epochs. Optimiser "
        "and batch size are those of federated.local as the strategy takes them, without lr_decay.",
    )
    clients: PositiveInt | None = Field(
        default=100,
        description="If there are more clients, only this many of them, drawn at random, train alone; null: all. Each "
        "local model is evaluated on the whole test set, which for small clients takes longer than its training.",
    )

    def draw(self, clients: int, seed: int) -> list[int]:
        """Draw the clients that train alone, each equally likely, and return them ascending.

        Args:
            clients: how many there are.
            seed: the experiment's.
        """
        if self.clients is None or clients <= self.clients:
            return list(range(clients))
        return sorted(generator(seed, "clients alone").choice(clients, self.clients, replace=False).tolist())


class LocalExperiment(Section):
    """Clients that train alone: all that their results follow from, and how they are computed."""

    seed: Seed = 42
    model: ModelChoice = Field(default=ModelChoice(), description="The network that is trained.")
    federated: Federated = Field(default=Federated(), description="How clients train, and how much.")
    local: Local = Field(default=Local(), description="Training alone.")
    compute: Compute = Field(default=Compute(), description="How and where it is computed.")

    def passes(self, clients: int) -> Fraction:
        """Return how often a client goes over its examples.

        What federated training does not know beforehand is not counted: rounds that it saves by stopping early, and
        clients that drop out, do less, or are drawn twice and train once.

        Args:
            clients: how many there are.
        """
        if self.local.epochs is not None:
            return Fraction(str(self.local.epochs))
        return Fraction(self._client_epochs, clients)

    def in_use(self) -> dict[str, Any]:
        """Return the parameters that count: of federated training, how clients train and how much in all."""
        training = self.training.model_dump(mode="json", exclude={"epochs", "lr_decay"})
        passes = {"epochs": self.local.epochs} if self.local.epochs else {"client_epochs": self._client_epochs}
        return {
            "seed": self.seed,
            "model": self.model.in_use(),
            "local": {**passes, "clients": self.local.clients, "training": training},
        }

    @property
    def training(self) -> Training:
        """How a client trains, as the strategy has it, but for the number of epochs."""
        return self.federated.local_training

    @property
    def _client_epochs(self) -> int:
        """The local epochs of all clients in all rounds."""
        return self.federated.rounds * self.federated.clients_per_round * self.training.epochs


@dataclass(frozen=True)
class LocalReport(Record):
    """How a client's training alone went: a row of clients.csv."""

    client: int
    examples: int  # that it trains on, n_k
    epochs: float  # passes over them
    examples_processed: int
    train_loss: float  # of the last pass, whole or not, as trained
    test_loss: float
    test_accuracy: float  # fraction
    diverged: bool  # as the test loss shows
    own_labels_accuracy: float | None  # see `fedpipe.fairness`; None if no test example has a label of its own
    held_out: int  # examples that it does not train on but tests on
    holdout_loss: float | None  # None where there are none
    holdout_accuracy: float | None


@dataclass(frozen=True)
class ClientsDone(Record):
    """What training alone goes on from, besides the reports of the clients that are done."""

    number: int


@dataclass(frozen=True)
class Result(datasets.OnDataset):
    """What clients reached alone."""

    population: int  # clients that there are
    drawn: int  # clients that train alone
    passes: float  # of a client over its examples
    clients: tuple[LocalReport, ...]  # those of them that are done, ascending

    @property
    def accuracy(self) -> float:
        """The mean of their test accuracies, fractions."""
        return fmean(client.test_accuracy for client in self.clients)

    @property
    def loss(self) -> float:
        """The mean of their test losses."""
        return fmean(client.test_loss for client in self.clients)

    @property
    def examples_processed(self) -> int:
        """The examples that they trained on, each as often as they did."""
        return sum(client.examples_processed for client in self.clients)

    def client_rows(self) -> list[dict[str, Any]]:
        """Return the rows of clients.csv."""
        return [asdict(client) | {"diverged": int(client.diverged)} for client in self.clients]

    def headline(self) -> dict[str, Any]:
        """Return what `dvc metrics` shows of clients alone: their mean test accuracy, also of those that diverged."""
        return {"local": self.accuracy}

    def figures(self) -> dict[str, Any]:
        """Return all figures of the clients together: of test accuracies, each client counting alike."""
        accuracies = spread(np.array([client.test_accuracy for client in self.clients]))
        diverged = sum(client.diverged for client in self.clients)
        return {
            "dataset": self.dataset,
            "accuracy": self.accuracy,
            "median_accuracy": accuracies["median"],
            "worst_tenth_accuracy": accuracies["worst_tenth"],
            "accuracy_std": accuracies["std"],
            "accuracy_gini": accuracies["gini"],
            "loss": self.loss,
            "diverged": diverged > 0,
            "clients": len(self.clients),
            "clients_diverged": diverged,
            "population": self.population,
            "epochs": self.passes,
            "examples_processed": self.examples_processed,
        }


def run(
    experiment: LocalExperiment,
    dataset: Path,
    clients: Path,
    *,
    checkpoint: Path | None = None,
    recorded_in: Path | None = None,
    on_resume: Callable[[Result], None] = lambda result: None,
    on_clients: Callable[[Result], None] = lambda result: None,
    on_end: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Train clients alone, each to the end.

    Every client starts from the initial parameters of the seed, as federated training does, and keeps its optimiser's
    state from its first pass to its last. Its model is evaluated and then forgotten.

    Args:
        experiment: its parameters.
        dataset: a folder with dataset.json and test.safetensors, as `fedpipe.data.datasets.save` writes them.
        clients: a folder of clients' examples, as `fedpipe.data.store.write` writes it.
        checkpoint: a folder for the checkpoints of any number of experiments; None saves none. With checkpoints, what
            was interrupted goes on with the clients that were not done.
        recorded_in: a file that somebody writes who records the result, such as dvc.lock: until then its checkpoints
            stay. None deletes them in the end.
        on_resume: told of what was done before, if it goes on from a checkpoint.
        on_clients: told of what is done whenever clients are.
        on_end: told of the result before its checkpoints are deleted, to save it.

    Raises:
        UserError: the data is missing or damaged, a parameter does not fit the data, or the engine does not work here.
    """
    description = datasets.describe(dataset / "dataset.json")
    store = open_store(clients.resolve())
    architecture, passes = experiment.model.model.on(description.spec), experiment.passes(len(store))
    job = TrainAlone(
        architecture, experiment.seed, experiment.training, passes, clients.resolve(),
        dataset.resolve() / "test.safetensors", experiment.compute,
    )  # fmt: skip
    drawn = experiment.local.draw(len(store), experiment.seed)

    def follows_from() -> dict[str, Any]:
        compute, files = experiment.compute, [dataset / "dataset.json", clients / MANIFEST]
        return origin(experiment.in_use(), compute.precision, compute.torch_device(), files)

    seconds = experiment.compute.checkpoint_every
    with checkpoints(checkpoint, follows_from, ClientsDone, LocalReport, seconds) as saved:
        _, done = saved.load() or (None, [])
        reports = {report.client: report for report in done}

        def result() -> Result:
            ordered = tuple(reports[client] for client in sorted(reports))
            return Result(description, len(store), len(drawn), float(passes), ordered)

        if reports:
            on_resume(result())
        # Large clients first, so that no worker is left with one when the others have nothing to do.
        left = sorted(set(drawn) - set(reports), key=lambda client: (-store.sizes[client], client))
        if left:
            with experiment.compute.start() as run_tasks:
                for some in run_tasks(job, initial_parameters(architecture, experiment.seed), left):
                    for report in some:
                        reports[report.client] = report
                        saved.save(len(reports), ClientsDone(len(reports)), report)
                    on_clients(result())
        on_end(result())
        saved.finish(recorded_in)
        return result()


@dataclass(frozen=True)
class TrainAlone:
    """Train some clients alone, one after the other, and evaluate each one's model: an engine's job."""

    architecture: Architecture
    seed: int
    training: Training
    passes: Fraction
    store: Path  # of examples, as `fedpipe.data.store` writes it
    test: Path  # as `fedpipe.data.datasets.save` writes it
    arithmetic: Arithmetic

    def __call__(self, parameters: Parameters, tasks: Iterable[int]) -> list[LocalReport]:
        return [self.report(client, parameters) for client in tasks]

    def report(self, client: int, parameters: Parameters) -> LocalReport:
        """Train a client's model from these parameters on its own examples, and evaluate it."""
        device, spec, store = self.arithmetic.torch_device(), self.architecture.spec, open_store(self.store)
        images, labels = store.examples(client, device)
        network = scratch_network_with(self.architecture, parameters, device, purpose="training")
        budget = examples_to_process(self.passes, len(labels))
        # The order of examples is that of a client in round 1, so that alone it does what it would do in that round.
        rng = generator(self.seed, "batches", round=1, client=client)
        loss = train_on(network, images, labels, spec, self.training, budget, rng, self.arithmetic)
        return self._evaluated(client, store, network, labels, budget, loss)

    def _evaluated(
        self, client: int, store: ClientStore, network: nn.Module, labels: Tensor, budget: int, train_loss: float
    ) -> LocalReport:
        spec = self.architecture.spec
        test = datasets.load_to(self.arithmetic.torch_device(), self.test)
        tested = evaluate(network, test.images, test.labels, spec)
        accuracies = class_accuracies(tested.confusion.numpy())
        own_labels = own_labels_accuracy(accuracies, np.bincount(labels.cpu().numpy(), minlength=spec.classes))
        held_out = evaluate_holdout(network, store, client, spec, self.arithmetic)
        return LocalReport(
            client, len(labels), budget / len(labels), budget, train_loss, tested.loss, tested.accuracy,
            tested.diverged(spec.classes), None if np.isnan(own_labels) else float(own_labels),
            held_out.held_out, held_out.loss, held_out.accuracy,
        )  # fmt: skip


def examples_to_process(passes: Fraction, examples: int) -> int:
    """Return how many examples so many passes over a client's process, to the nearest whole number; at least one."""
    return max(1, int(passes * examples + Fraction(1, 2)))


def train_on(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: DataSpec,
    settings: Training,
    budget: int,
    rng: np.random.Generator,
    arithmetic: Arithmetic,
) -> float:
    """Train in place on exactly so many examples: whole passes, then a part of one, drawn at random.

    Args:
        network: as in `fedpipe.training.loop.train`.
        images: likewise.
        labels: likewise.
        spec: likewise.
        settings: likewise, but for the number of epochs.
        budget: how many examples are processed, at least 1; each counts as often as it is.
        rng: draws the order of the examples anew in each pass.
        arithmetic: the precision.

    Returns:
        The mean loss of the batches of the last pass, whole or not, as trained.
    """
    whole, part = divmod(budget, len(labels))
    optimizer = OPTIMIZERS[settings.optimizer](list(network.parameters()), settings)

    def losses_of(images: Tensor, labels: Tensor, epochs: int) -> Iterator[float]:
        passes = settings.model_copy(update={"epochs": epochs})
        return train(network, images, labels, spec, passes, rng, arithmetic, optimizer=optimizer)

    losses = [*losses_of(images, labels, whole)]
    if part:
        some = torch.from_numpy(rng.permutation(len(labels))[:part]).to(labels.device)
        losses += losses_of(images[some], labels[some], 1)
    return losses[-1]
