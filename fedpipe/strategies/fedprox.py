"""FedProx: clients are held to the server's model by a proximal term."""

from pydantic import NonNegativeFloat

from fedpipe.strategies.base import Visit
from fedpipe.strategies.fedavg import FedAvg
from fedpipe.training import Correction


class FedProx(FedAvg):
    """Clients minimise F_k(w) + mu/2 ‖w - w_t‖²; the server averages.

    Li et al. 2020, arXiv:1812.06127, algorithm 2. The term's gradient is mu (w - w_t). What stragglers got done
    is averaged in, as there (`federated.stragglers`).
    """

    mu: NonNegativeFloat = 0.01

    def correction(self, visit: Visit) -> Correction | None:
        if self.mu == 0:
            return None
        return Correction(constant=-self.mu * visit.start, proximal=self.mu)
