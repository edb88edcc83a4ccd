"""The parameters of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedpipe.config.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Training(Section):
    """Say how a network is trained, by a client or centrally."""

    epochs: PositiveInt = Field(default=5, description="Passes over the training examples.")
    batch_size: PositiveInt | None = Field(
        default=100, description="Examples in a batch; null makes one batch of all examples."
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="Optimiser of the weights.")
    lr: PositiveFloat = Field(default=1e-3, description="Learning rate.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Momentum of sgd; with adam it must be 0."
    )
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="L2 regularisation: this number times the weights is added to the gradient."
    )
    clip_norm: PositiveFloat | None = Field(
        default=None,
        description="A batch's gradient is scaled down if its L2 norm exceeds this; null sets no limit. What a "
        "strategy adds to it, such as scaffold's correction or fedprox's pull, is added afterwards, whole.",
    )

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum: {self.momentum:g} is for optimizer sgd; {self.optimizer} has moments of its own"
            )
        return self

    def steps(self, examples: int) -> int:
        """Return the number of optimiser steps on this many examples; a last, smaller batch is a step too."""
        return self.epochs * -(-examples // (self.batch_size or examples))
