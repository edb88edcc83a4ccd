"""Partitions have the same sizes and the same skew as those of flwr-datasets, if it is installed (`make bench`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpipe.data.partition.settings import Partition
from fedpipe.data.skew import skew
from fedpipe.data.store import label_counts

datasets = pytest.importorskip("datasets", reason="flwr-datasets belongs to the extra `bench`")
partitioners = pytest.importorskip("flwr_datasets.partitioner", reason="flwr-datasets belongs to the extra `bench`")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # flwr-datasets warns
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))
CLIENTS, SEEDS = 20, 25


def ours(seed: int, scheme: str, **blocks: dict[str, Any]) -> np.ndarray:
    """Return the label counts (clients, classes) of one of our partitions."""
    settings = Partition.model_validate({"clients": CLIENTS, "scheme": scheme, **blocks})
    return label_counts(settings.assign(LABELS, seed), LABELS, 10)


def theirs(partitioner: Any) -> np.ndarray:
    """Return the label counts (clients, classes) of one of flwr-datasets' partitions."""
    partitioner.dataset = datasets.Dataset.from_dict({"label": LABELS.tolist()})
    return np.stack(
        [np.bincount(partitioner.load_partition(client)["label"], minlength=10) for client in range(CLIENTS)]
    )


def assert_alike(one: Callable[[int], np.ndarray], other: Callable[[int], np.ndarray]) -> None:
    """Assert that each figure of skew has the same mean over seeds, to five standard errors of the difference."""
    for figure in ("label_entropy", "jensen_shannon", "gini"):
        a, b = (np.array([skew(counts(seed))[figure] for seed in range(SEEDS)]) for counts in (one, other))
        error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / SEEDS)
        assert abs(a.mean() - b.mean()) <= 5 * error + 1e-9, figure


def test_iid():
    counts = [ours(1, "iid"), theirs(partitioners.IidPartitioner(CLIENTS))]
    assert [set(c.sum(axis=1)) for c in counts] == [{300}, {300}]
    # Theirs takes every 20th example in the given order, which is random because LABELS is.
    assert skew(counts[0])["jensen_shannon"] == pytest.approx(skew(counts[1])["jensen_shannon"], rel=0.3)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 10.0])
def test_dirichlet(alpha: float):
    def flower(seed: int) -> np.ndarray:
        return theirs(
            partitioners.DirichletPartitioner(
                CLIENTS, "label", alpha, min_partition_size=1, self_balancing=False, seed=seed
            )
        )

    assert_alike(lambda seed: ours(seed, "dirichlet", dirichlet={"alpha": alpha, "min_examples": 1}), flower)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_inner_dirichlet(alpha: float):
    """Theirs draws mixes from Dir(alpha, ..., alpha), which is Dir(10 alpha p) for ten equally frequent classes."""

    def flower(seed: int) -> np.ndarray:
        return theirs(partitioners.InnerDirichletPartitioner([300] * CLIENTS, "label", alpha, seed=seed))

    assert (flower(0).sum(axis=1) == 300).all()
    assert_alike(lambda seed: ours(seed, "inner-dirichlet", **{"inner-dirichlet": {"alpha": 10 * alpha}}), flower)


@pytest.mark.parametrize("per_client", [2, 5])
def test_shards(per_client: int):
    def flower(seed: int) -> np.ndarray:
        return theirs(
            partitioners.ShardPartitioner(
                CLIENTS, "label", num_shards_per_partition=per_client, shard_size=300 // per_client, seed=seed
            )
        )

    assert (flower(0).sum(axis=1) == ours(0, "shards", shards={"per_client": per_client}).sum(axis=1)).all()
    assert_alike(lambda seed: ours(seed, "shards", shards={"per_client": per_client}), flower)


@pytest.mark.parametrize("per_client", [2, 5])
def test_classes(per_client: int):
    """Both give every client as many classes. Ours also gives every class as many clients, so sizes differ less."""

    def flower(seed: int) -> np.ndarray:
        return theirs(
            partitioners.PathologicalPartitioner(
                CLIENTS, "label", per_client, class_assignment_mode="first-deterministic", seed=seed
            )
        )

    one, other = ours(0, "classes", classes={"per_client": per_client}), flower(0)
    for counts in (one, other):
        assert ((counts > 0).sum(axis=1) == per_client).all()
        assert (counts.sum(axis=0) == 600).all()
    assert skew(one)["gini"] <= skew(other)["gini"] + 1e-9


@pytest.mark.parametrize("per_client", [2, 5])
def test_classes_with_random_holders(per_client: int):
    """Both give client i class i mod 10, and others at random."""

    def flower(seed: int) -> np.ndarray:
        return theirs(
            partitioners.PathologicalPartitioner(
                CLIENTS, "label", per_client, class_assignment_mode="first-deterministic", seed=seed
            )
        )

    block = {"per_client": per_client, "holders": "random"}
    assert_alike(lambda seed: ours(seed, "classes", classes=block), flower)
