"""The same workloads by pfl-research: its SimulatedBackend, FederatedAveraging and PyTorchModel, its data sets.

It adds only a count of what was trained and the time at which each round ended.
"""

import os

os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.common import Tally, accuracy, arguments, load, report
from benchmarks.peers.models import build


class Trainee(nn.Module):
    """Give a network the two methods that pfl asks for."""

    def __init__(self, network: nn.Module, tally: Tally) -> None:
        super().__init__()
        self.network = network
        self.tally = tally

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        self.tally.add(len(labels), 1)  # pfl takes one step for each loss, and asks for no loss elsewhere
        return F.cross_entropy(self.network(images), labels)

    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, object]:
        return {}  # pfl evaluates the first cohort whatever the frequency: this way that costs nothing


class RoundClock(TrainingProcessCallback):
    """Note the end of each round; a round includes the update of the global model."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.tally.end_round()
        return False, Metrics()


def main() -> None:
    workload, data, rounds, threads = arguments(__doc__)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    np.random.seed(0)
    clients, test = load(data, workload)
    # Kept from round to round, since pfl caches a user's batches in its data set.
    users = [PyTorchTensorDataset(tensors, user_id=str(user)) for user, tensors in enumerate(clients)]
    sampler = get_user_sampler("minimize_reuse", list(range(workload.clients)))
    dataset = FederatedDataset(users.__getitem__, sampler)
    tally = Tally()
    trainee = Trainee(build(workload.model), tally)
    # The mean change of the clients is taken for a gradient: a step of length 1 along it is the weighted mean.
    model = PyTorchModel(trainee, torch.optim.SGD, torch.optim.SGD(trainee.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=dataset, val_data=dataset, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=workload.lr, local_batch_size=workload.batch_size),
        NNEvalHyperParams(local_batch_size=workload.batch_size),
        callbacks=[RoundClock(tally)],
        send_metrics_to_platform=False,
    )
    report("pfl_research", workload, threads, tally, accuracy(trainee.network, *test))


if __name__ == "__main__":
    main()
