"""A strategy from outside of fedpipe: FedMom, whose server looks ahead along its momentum.

Try it beside FedAvg: `python examples/own_strategy.py`.
"""

from typing import Any

from pydantic import Field
from torch import Tensor

import fedpipe
from fedpipe.federated.messages import Aggregate, State


class FedMom(fedpipe.Strategy):
    """v_{t+1} = w_t + lr Δ, w_{t+1} = v_{t+1} + beta (v_{t+1} - v_t), v_0 = w_0. Huo et al. 2020, arXiv:2002.02090."""

    lr: float = Field(default=1.0, gt=0, description="Learning rate of the server.")
    beta: float = Field(default=0.9, ge=0, lt=1, description="Momentum of the server.")

    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        before = state.get("v", weights)
        v = weights + self.lr * aggregate.delta
        return v + self.beta * (v - before), {"v": v}


if __name__ == "__main__":
    settings: dict[str, Any] = {"model": "2nn", "clients": 50, "scheme": "dirichlet", "clients_per_round": 10}
    for strategy in ("fedavg", FedMom(beta=0.5)):
        print(fedpipe.run(strategy=strategy, rounds=20, local={"optimizer": "sgd", "lr": 0.05}, quiet=True, **settings))
