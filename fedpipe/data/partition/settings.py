"""The parameters of the partition: block `partition` of params.yaml."""

from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from fedpipe.config.section import PositiveInt, Section, or_own, own_names, with_blocks
from fedpipe.data.partition import JOINED, PARTITIONERS
from fedpipe.data.partition.base import Partitioner
from fedpipe.data.partition.feature import Feature
from fedpipe.data.partition.quantity import Quantity
from fedpipe.system.errors import ParameterError
from fedpipe.system.randomness import generator

QUANTITY, FEATURE = "quantity", "feature"
LARGEST = 100_000_000  # draws with replacement: gigabytes


def _valid(scheme: str) -> str:
    _parsed(scheme)
    return scheme


@own_names("scheme", Partitioner, {})
@with_blocks(PARTITIONERS, JOINED)
class Partition(Section):
    """Divide the training set among the clients."""

    clients: int = Field(
        default=8, gt=0, le=1_000_000, description="The training set is divided among this many clients."
    )
    examples_per_client: PositiveInt | None = Field(
        default=None,
        description=(
            "Each client gets this many examples on average, drawn from the training set with replacement, so that "
            "there may be any number of clients. With null, each training example goes to exactly one client."
        ),
    )
    scheme: Annotated[str, AfterValidator(_valid), *or_own(Partitioner)] = Field(
        default="iid",
        description=(
            f"The scheme decides which examples each client gets: {', '.join(PARTITIONERS)}. natural takes the "
            "clients that the data brings along. Append +quantity for clients of unequal size, and +feature for images "
            "that look different from client to client, as in dirichlet+quantity or shards+feature. Alone, quantity "
            "and feature mean iid+quantity and iid+feature. The parameters of each are in the block of its name."
        ),
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Each client holds out this fraction of its examples for testing and trains on the rest. With "
        "examples_per_client, where clients share examples, one draw for all decides which are held out.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.examples_per_client and self.clients * self.examples_per_client > LARGEST:
            raise ValueError(
                f"examples_per_client: {self.examples_per_client} for each of {self.clients} clients exceeds the "
                f"{LARGEST:,} examples that can be drawn; fewer would do"
            )
        given = "quantity" if self.quantity_skew else "examples_per_client" if self.examples_per_client else ""
        if self.partitioner.by_owner and given:
            raise ValueError(f"scheme: {self.scheme}: the clients' own examples are theirs; leave {given} out")
        return self

    def chosen_names(self) -> set[str]:
        return set() if isinstance(self.scheme, Partitioner) else {_parsed(self.scheme)[0]} | self._joined

    @property
    def partitioner(self) -> Partitioner:
        """Return the partitioner of the scheme, with the parameters of its block."""
        if isinstance(self.scheme, Partitioner):
            return self.scheme
        name, _ = _parsed(self.scheme)
        return self.entry(name, PARTITIONERS, Partitioner)

    @property
    def quantity_skew(self) -> Quantity | None:
        """Return the skew of the clients' sizes, or None if the scheme has none."""
        return self.entry(QUANTITY, JOINED, Quantity) if QUANTITY in self._joined else None

    @property
    def feature_skew(self) -> Feature | None:
        """Return the skew of the images' appearance, or None if the scheme has none."""
        return self.entry(FEATURE, JOINED, Feature) if FEATURE in self._joined else None

    @property
    def _joined(self) -> set[str]:
        return set() if isinstance(self.scheme, Partitioner) else _parsed(self.scheme)[1]

    def assign(self, labels: np.ndarray, seed: int, owners: np.ndarray | None = None) -> list[np.ndarray]:
        """Assign examples to clients.

        With `examples_per_client`, the scheme divides clients * examples_per_client draws with replacement instead of
        the examples themselves. An index may then occur more than once, even within a client.

        Args:
            labels: (n,) int, 0..classes-1.
            seed: the experiment's seed.
            owners: (n,) int, whose each example is; None if the data set does not say.

        Returns:
            For each client the indices of its examples, ascending; at least one.

        Raises:
            ParameterError: there are more clients than examples, or the scheme cannot divide these labels.
        """
        if self.examples_per_client is None:
            if self.clients > len(labels):
                raise ParameterError(
                    "partition.clients",
                    f"{self.clients} exceeds the {len(labels)} training examples; "
                    "partition.examples_per_client draws them with replacement",
                )
            drawn = np.arange(len(labels))
        else:
            size = self.clients * self.examples_per_client
            drawn = generator(seed, "examples with replacement").integers(len(labels), size=size)
        divided_by = owners if self.partitioner.by_owner else labels
        if divided_by is None:
            raise ParameterError(
                "partition.scheme",
                f"{self.scheme}, but the data set does not say whose its examples are; "
                "another scheme would do, or data of your own with a folder for each client",
            )
        weights, rng = self._weights(len(drawn), seed), generator(seed, "partition")
        parts = self.partitioner.assign(divided_by[drawn], weights, rng)
        if not all(map(len, parts)):
            raise ParameterError(
                "partition.scheme",
                f"{self.scheme} leaves {sum(not len(part) for part in parts)} of {self.clients} clients without "
                "examples; fewer partition.clients would do",
            )
        return [np.sort(drawn[part]) for part in parts]

    def held_out_by_all(self, examples: int, seed: int) -> np.ndarray | None:
        """Draw which examples every client holds out that has them, where several may have the same.

        So nobody trains on what another client tests on.

        Args:
            examples: how many there are in all.
            seed: the experiment's seed.

        Returns:
            (examples,) bool; None if no two clients have the same example, so that each draws among its own.
        """
        if not self.holdout or self.examples_per_client is None:
            return None
        return generator(seed, "holdout by all").random(examples) < self.holdout

    def hold_out(
        self, indices: np.ndarray, client: int, seed: int, by_all: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Divide a client's examples at random into those for training and those held out for testing.

        Args:
            indices: (n,) the indices of the client's examples, ascending.
            client: the client's number.
            seed: the experiment's seed.
            by_all: what `held_out_by_all` returned.

        Returns:
            The indices of the examples for training, at least one, and of those held out; both ascending. If all of a
            client's examples are held out by all, it trains on the first of them nevertheless.
        """
        if by_all is not None:
            held = by_all[indices]
            held[0] &= not held.all()
            return indices[~held], indices[held]
        held_out = min(round(self.holdout * len(indices)), len(indices) - 1)
        if not held_out:
            return indices, indices[:0]
        order = generator(seed, "holdout", client=client).permutation(len(indices))
        return np.sort(indices[order[held_out:]]), np.sort(indices[order[:held_out]])

    def appearance(self, images: Tensor, client: int, seed: int) -> Tensor:
        """Return images (n, height, width, channels) uint8 as a client sees them: unchanged without feature skew."""
        if self.feature_skew is None:
            return images
        return self.feature_skew.apply(images, generator(seed, "feature", client=client), (client + 1) / self.clients)

    def _weights(self, examples: int, seed: int) -> np.ndarray:
        """Return each client's fraction (clients,) of all examples."""
        if self.quantity_skew is None:
            return np.full(self.clients, 1 / self.clients)
        return self.quantity_skew.weights(examples, self.clients, generator(seed, "quantity"))


def _parsed(scheme: str) -> tuple[str, set[str]]:
    """Return the partitioner's name in a scheme such as "dirichlet+quantity", and the names joined to it.

    Raises:
        ValueError: there is no such scheme. The message says what would work.
    """
    names = scheme.split("+")
    if set(names) - {*PARTITIONERS, *JOINED}:
        raise ValueError(f"is not one of {_quoted(PARTITIONERS)}, nor of these and {_quoted(JOINED)} joined with +")
    partitioners = [name for name in names if name in PARTITIONERS] or ["iid"]
    if len(set(names)) < len(names) or len(partitioners) > 1:
        raise ValueError(f"at most one of {_quoted(PARTITIONERS)}, and of {_quoted(JOINED)} each once")
    return partitioners[0], set(names) & set(JOINED)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
