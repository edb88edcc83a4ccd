"""FedBN: normalisation layers stay with the clients."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedpipe.federated.strategies.fedavg import FedAvg
from fedpipe.system.errors import ParameterError


class FedBN(FedAvg):
    """Average all parameters but those of batch normalisation, which each client keeps, with their statistics.

    A client begins with the server's initial ones. The server's model keeps those too, so how good the clients' models
    are is seen in their accuracy on held-out examples (`partition.holdout`). Li et al. 2021, arXiv:2102.07623,
    algorithm 1.
    """

    has_client_state = True

    def check(self, network: nn.Module) -> None:
        if not self.stays_at_home(network):
            raise ParameterError(
                "federated.strategy", "fedbn: the model has no batch normalisation; model.name: reference-bn-cnn has"
            )

    def stays_at_home(self, network: nn.Module) -> Collection[str]:
        return {
            f"{module}.{name}"
            for module, layer in network.named_modules()
            if isinstance(layer, _BatchNorm)
            for name in layer.state_dict()
        }
