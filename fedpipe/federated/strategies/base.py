"""What every strategy is: how it differs from federated averaging, on the client and on the server."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedpipe.config.section import Section
from fedpipe.federated.context import ClientContext, LocalResult, LocalTraining
from fedpipe.federated.messages import Aggregate, State, Task, Update
from fedpipe.federated.state import ServerState
from fedpipe.models.parameters import flat
from fedpipe.training.loop import Correction, GradientFunction


class Strategy(Section):
    """A federated algorithm. Its fields are its parameters, its methods what it does differently.

    A round calls them in this order: `broadcast` on the server; `stays_at_home`, `local_training`, `correction`,
    `gradients` and, after training, `on_client` on each client; `on_arrival` where updates are added up; and
    `server_update`.

    All strategies minimise F(w) = Σ_k p_k F_k(w). `federated.objective` says what the p_k are: n_k / n, the client's
    part of all training examples, or 1 / N for each of N clients. The mean update is weighted accordingly, and what a
    strategy adds up by itself takes p_k from `ClientContext.client_weight` or `Task.client_weight`.
    """

    has_client_state: ClassVar[bool] = False  # whether clients remember anything from round to round
    observes_gradients: ClassVar[bool] = False  # whether LocalResult.mean_gradient is wanted
    transforms_break: ClassVar[str] = ""  # why no transform may change its updates; empty if they may
    sends_besides: ClassVar[str] = ""  # what updates hold besides the delta and buffers; empty if nothing
    sends_scalars: ClassVar[bool] = False  # whether updates hold numbers besides vectors

    def check(self, network: nn.Module) -> None:
        """Check that this strategy has something to do on a network.

        Raises:
            ParameterError: it has not.
        """

    def broadcast(self, state: State, dimension: int) -> State:
        """Return what clients are sent besides the model: (d,) float32 vectors by name.

        Args:
            state: what the server remembers.
            dimension: d.
        """
        return {}

    def local_training(self, settings: LocalTraining) -> LocalTraining:
        """Return how clients train, from what `federated.local` says."""
        return settings

    def stays_at_home(self, network: nn.Module) -> Collection[str]:
        """Return the names of parameters and buffers that each client keeps to itself; the vectors leave them out."""
        return ()

    def correction(self, context: ClientContext) -> Correction | None:
        """Return the affine term that the client adds to the gradient of each step; None for none."""
        return None

    def gradients(self, context: ClientContext) -> GradientFunction | None:
        """Return the client's own loss and gradients; None for cross-entropy.

        This is the place of a term of the loss that needs activations, as in MOON (Li et al. 2021, arXiv:2103.16257),
        or of a gradient taken at perturbed weights, as in FedSAM (Qu et al. 2022, arXiv:2206.02618).
        """
        return None

    def on_client(self, update: Update, context: ClientContext, result: LocalResult) -> Update:
        """Return what the client sends in place of the plain update, and remember in `context.state` what it keeps."""
        return update

    def on_arrival(self, update: Update, task: Task) -> Update:
        """Return what is added up of an update that has arrived. Unlike `on_client`, this sends nothing."""
        return update

    @abstractmethod
    def server_update(self, weights: Tensor, aggregate: Aggregate, state: State) -> tuple[Tensor, State]:
        """Take the server's step.

        Args:
            weights: (d,) float64, w_t.
            aggregate: of the clients' updates.
            state: what the server remembers; empty at first.

        Returns:
            w_{t+1}, and what the server is to remember.
        """

    def step(self, state: ServerState, aggregate: Aggregate, names: Sequence[str]) -> ServerState:
        """Return the state with the new model. Buffers, such as BatchNorm's statistics, are averaged in every strategy.

        Args:
            state: before the round.
            aggregate: of the clients' updates.
            names: the parameters that the vectors hold, in their order.
        """
        old = state.parameters
        weights = flat(old[name] for name in names).double()
        weights, remembered = self.server_update(weights, aggregate, state.strategy)
        pieces = weights.split([old[name].numel() for name in names])
        new = {name: piece.view(old[name].shape) for name, piece in zip(names, pieces, strict=True)}
        new |= {name: old[name].double() + change for name, change in aggregate.buffers.items()}
        parameters = {name: _as(tensor, new[name]) if name in new else tensor for name, tensor in old.items()}
        return replace(state, parameters=parameters, strategy=remembered)


def _as(old: Tensor, new: Tensor) -> Tensor:
    """Return the new tensor in the old one's type; a whole number, such as BatchNorm's count of batches, is rounded."""
    return (new if old.dtype.is_floating_point else torch.round(new)).to(old.dtype)
