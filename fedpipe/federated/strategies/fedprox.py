"""FedProx: a proximal term holds clients to the server's model."""

from pydantic import Field

from fedpipe.config.section import NonNegativeFloat
from fedpipe.federated.context import ClientContext
from fedpipe.federated.strategies.fedavg import FedAvg
from fedpipe.training.loop import Correction


class FedProx(FedAvg):
    """The strategy fedprox holds clients to the server's model: they minimise F_k(w) + mu/2 ‖w - w_t‖².

    The term's gradient is mu (w - w_t). The server averages, stragglers' partial work included. Li et al. 2020,
    arXiv:1812.06127, algorithm 2.
    """

    mu: NonNegativeFloat = Field(default=0.01, description="Weight of the proximal term.")

    def correction(self, context: ClientContext) -> Correction | None:
        if self.mu == 0:
            return None
        return Correction(constant=-self.mu * context.start, proximal=self.mu)
