"""The laws of every partition scheme, and those of each."""

import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from fedpipe.data.datasets import Dataset
from fedpipe.data.partition import PARTITIONERS
from fedpipe.data.partition.base import dirichlet
from fedpipe.data.partition.feature import Feature
from fedpipe.data.partition.quantity import Quantity
from fedpipe.data.partition.settings import Partition
from fedpipe.data.skew import gini, skew
from fedpipe.data.store import label_counts
from fedpipe.system.errors import UserError
from fedpipe.system.randomness import generator

labels_and_clients = st.integers(1, 200).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 9), min_size=n, max_size=n).map(np.array), st.integers(1, n))
)
BY_LABEL = [name for name, partitioner in PARTITIONERS.items() if not partitioner.by_owner]
SCHEMES = [*BY_LABEL, "quantity", "feature", *(f"{scheme}+quantity" for scheme in BY_LABEL if scheme != "iid")]
# Of what has options that change who gets what, each but the default.
OPTIONS = [
    ("classes", {"classes": {"holders": "random"}}),
    ("quantity", {"quantity": {"law": "power-law"}}),
    ("quantity", {"quantity": {"law": "dirichlet"}}),
]
every = pytest.mark.parametrize(
    ("scheme", "blocks"),
    [
        *(pytest.param(scheme, {}, id=scheme) for scheme in SCHEMES),
        *(
            pytest.param(scheme, blocks, id=f"{scheme}-{next(iter(blocks[scheme].values()))}")
            for scheme, blocks in OPTIONS
        ),
    ],
)
BALANCED = np.repeat(np.arange(10), 1000)  # labels of 10,000 examples


Blocks = dict[str, dict[str, object]]


def partition(scheme: str, clients: int, **blocks: dict[str, object]) -> Partition:
    """Return a partition with minimum sizes of 1, unless the blocks say otherwise."""
    small = {"dirichlet": {"min_examples": 1}, "quantity": {"min_examples": 1}}
    return Partition.model_validate({"scheme": scheme, "clients": clients} | {
        name: small.get(name, {}) | blocks.get(name, {}) for name in small.keys() | blocks.keys()
    })  # fmt: skip


def divided(settings: Partition, labels: np.ndarray, seed: int) -> tuple[list[np.ndarray] | None, str]:
    """Return the assignment, or None and the reason why there is none."""
    try:
        return settings.assign(labels, seed), ""
    except UserError as error:
        return None, str(error)


def counts_of(assignment: list[np.ndarray], labels: np.ndarray = BALANCED) -> np.ndarray:
    """Return how many examples of each label each client has: (clients, classes)."""
    return label_counts(assignment, labels, 10)


# Laws of every scheme


@every
@given(labels_and_clients, st.integers(0, 2**32))
def test_clients_examples_are_disjoint_and_cover_all_or_a_sentence_says_why_not(
    scheme: str, blocks: Blocks, drawn: tuple[np.ndarray, int], seed: int
):
    labels, clients = drawn
    assignment, sentence = divided(partition(scheme, clients, **blocks), labels, seed)
    if assignment is None:
        assert re.fullmatch(r"partition\.\w+(\.\w+)?: .+", sentence)
        return
    assert len(assignment) == clients
    assert all(len(indices) for indices in assignment)
    assert all((np.diff(indices) > 0).all() for indices in assignment)
    assert sorted(np.concatenate(assignment).tolist()) == list(range(len(labels)))


@every
@given(clients=st.integers(5, 40), seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_enough_examples_of_each_label_can_be_divided(scheme: str, blocks: Blocks, clients: int, seed: int):
    if blocks.get("classes"):
        clients = max(clients, 10)  # with fewer, random holders may leave a class without any
    assignment = partition(scheme, clients, **{"dirichlet": {"alpha": 0.5}, **blocks}).assign(BALANCED, seed)
    assert sorted(np.concatenate(assignment).tolist()) == list(range(10_000))


@every
def test_the_same_seed_gives_the_same_assignment_and_another_gives_another(scheme: str, blocks: Blocks):
    one, same, other = (partition(scheme, 10, **blocks).assign(BALANCED, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# iid


@given(labels_and_clients)
def test_iid_sizes_are_at_most_one_apart(drawn: tuple[np.ndarray, int]):
    labels, clients = drawn
    sizes = [len(indices) for indices in partition("iid", clients).assign(labels, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_clients_have_the_label_frequencies_of_the_whole():
    """The statistic is chi-square with 81 degrees of freedom (10 labels, 10 clients), whose 99.99 % quantile is 135."""
    counts = counts_of(partition("iid", 10).assign(BALANCED, 7))
    assert ((counts - 100) ** 2 / 100).sum() < 135
    assert counts.std() > 1  # shuffled, not dealt out label by label


# shards


@given(st.integers(1, 50), st.integers(1, 5), st.integers(0, 1000))
def test_shards_are_pieces_of_the_sorted_labels(clients: int, per_client: int, seed: int):
    """A client holds at most as many classes as its pieces may touch."""
    assignment = partition("shards", clients, shards={"per_client": per_client}).assign(BALANCED, seed)
    sizes = [len(indices) for indices in assignment]
    assert max(sizes) - min(sizes) <= per_client
    pieces = clients * per_client
    spans = -(-10 // pieces) + 1  # classes that one piece may touch
    assert (counts_of(assignment) > 0).sum(axis=1).max() <= per_client * spans


def test_the_papers_split_gives_each_of_100_clients_two_pieces_of_300():
    """McMahan et al. 2017, section 3: at most two digits for most clients, 600 examples each."""
    labels = np.repeat(np.arange(10), 6000)
    counts = counts_of(partition("shards", 100).assign(labels, 3), labels)
    assert (counts.sum(axis=1) == 600).all()
    assert (counts % 300 == 0).all()
    assert (counts > 0).sum(axis=1).max() <= 2


# classes


@pytest.mark.parametrize(
    ("labels", "clients", "per_client", "expected"),
    [
        (BALANCED, 3, 11, "partition.classes.per_client: 11 exceeds the 10 classes"),
        (BALANCED, 3, 3, "partition.classes.per_client: 3 clients of 3 hold at most 9 of the 10 classes"),
        (
            [0, 0, 0, 1, 1],
            3,
            2,
            "partition.classes: 3 clients share class 1, which has 2 examples; fewer partition.clients would do",
        ),
    ],
)
def test_classes_says_why_it_cannot_divide(labels: list[int], clients: int, per_client: int, expected: str):
    settings = partition("classes", clients, classes={"per_client": per_client})
    assert divided(settings, np.array(labels), 1) == (None, expected)


def test_classes_gives_each_of_as_many_clients_as_examples_one():
    assignment, _ = divided(partition("classes", 2, classes={"per_client": 2}), np.array([0, 0, 1, 1]), 1)
    assert assignment is not None
    assert counts_of(assignment, np.array([0, 0, 1, 1]))[:, :2].tolist() == [[1, 1], [1, 1]]


@given(st.integers(5, 60), st.integers(2, 10), st.integers(0, 1000))
def test_classes_gives_each_client_per_client_classes_and_each_class_as_many_clients(
    clients: int, per_client: int, seed: int
):
    counts = counts_of(partition("classes", clients, classes={"per_client": per_client}).assign(BALANCED, seed))
    assert ((counts > 0).sum(axis=1) == per_client).all()
    holders = (counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for label in range(10):
        held = counts[counts[:, label] > 0, label]
        assert held.max() - held.min() <= 1


@given(st.integers(10, 60), st.integers(1, 10), st.integers(0, 1000))
def test_with_random_holders_client_i_holds_class_i_mod_10_and_as_many_others(clients: int, per_client: int, seed: int):
    """NIID-Bench's "#C = k"; a class is shared equally by those that hold it."""
    block: dict[str, object] = {"per_client": per_client, "holders": "random"}
    counts = counts_of(partition("classes", clients, classes=block).assign(BALANCED, seed))
    assert (counts[np.arange(clients), np.arange(clients) % 10] > 0).all()
    assert ((counts > 0).sum(axis=1) == per_client).all()
    for label in range(10):
        held = counts[counts[:, label] > 0, label]
        assert held.max() - held.min() <= 1


def test_with_random_holders_the_other_classes_are_equally_likely():
    """Of its 9 other classes a client draws 2, so it holds each of them in 2/9 of 600 partitions."""
    block: dict[str, object] = {"per_client": 3, "holders": "random"}
    often = np.zeros((20, 10))
    for seed in range(600):
        often += counts_of(partition("classes", 20, classes=block).assign(BALANCED, seed)) > 0
    sure = np.arange(10) == np.arange(20)[:, None] % 10
    assert (often[sure] == 600).all()
    assert abs(often[~sure] - 600 * 2 / 9).max() < 5 * np.sqrt(600 * 2 / 9 * 7 / 9)


def test_random_holders_are_drawn_until_each_class_has_one_or_a_sentence_says_that_none_does():
    block: dict[str, object] = {"per_client": 2, "holders": "random"}
    for seed in range(20):
        counts = counts_of(partition("classes", 8, classes=block).assign(BALANCED, seed))
        assert (counts.sum(axis=0) == 1000).all()
    hundred = np.repeat(np.arange(100), 10)
    expected = (
        "partition.classes.holders: random: in 100 draws some of the 100 classes never had a client; balanced, or at "
        "least as many partition.clients as classes, would do"
    )
    assert divided(partition("classes", 50, classes=block), hundred, 1) == (None, expected)


# dirichlet


def test_dirichlet_shares_have_the_mean_and_the_variance_of_the_distribution():
    """Shares from Dir(0.5, ..., 0.5) of 20 clients have mean 1/20 and variance (1/20)(19/20) / (20 * 0.5 + 1)."""
    labels = np.repeat(np.arange(10), 500)
    shares = np.concatenate(
        [counts_of(partition("dirichlet", 20).assign(labels, seed), labels) / 500 for seed in range(60)]
    )  # 12,000 draws
    assert shares.mean() == pytest.approx(1 / 20)
    assert shares.var() == pytest.approx(0.05 * 0.95 / 11, rel=0.1)


@given(st.integers(2, 50), st.integers(0, 1000))
def test_dirichlet_with_a_huge_alpha_is_close_to_iid(clients: int, seed: int):
    assignment = partition("dirichlet", clients, dirichlet={"alpha": 1e6}).assign(BALANCED, seed)
    assert np.abs(counts_of(assignment) - 1000 / clients).max() <= 1000 / clients * 0.05 + 1


def test_dirichlet_skews_the_more_the_smaller_alpha():
    alphas = (0.05, 0.2, 1.0, 10.0, 1e6)
    figures = [
        skew(counts_of(partition("dirichlet", 10, dirichlet={"alpha": alpha}).assign(BALANCED, 5))) for alpha in alphas
    ]
    distances, entropies = ([figure[key] for figure in figures] for key in ("jensen_shannon", "label_entropy"))
    assert distances == sorted(distances, reverse=True)
    assert entropies == sorted(entropies)
    assert distances[0] > 0.6
    assert distances[-1] < 0.01


@given(st.floats(1e-6, 1e6), st.integers(1, 100), st.integers(0, 1000))
@settings(max_examples=50)
def test_dirichlet_ends_with_clients_of_the_least_size_or_a_sentence(alpha: float, clients: int, seed: int):
    scheme = partition("dirichlet", clients, dirichlet={"alpha": alpha, "min_examples": 20})
    assignment, sentence = divided(scheme, BALANCED, seed)
    if assignment is None:
        assert "in 100 draws some client always had fewer than min_examples = 20 examples" in sentence
        assert "a larger alpha, a smaller min_examples or fewer partition.clients would do" in sentence
    else:
        assert min(map(len, assignment)) >= 20


def test_dirichlet_draws_again_until_each_has_enough():
    sizes = [
        min(map(len, partition("dirichlet", 50, dirichlet={"alpha": 0.3, "min_examples": m}).assign(BALANCED, 1)))
        for m in (1, 50)
    ]
    assert sizes[0] < 50 <= sizes[1]


# inner-dirichlet

PRIOR = np.array([2, 3, 4, 5, 6]) / 20
UNEQUAL = np.repeat(np.arange(5), (60_000 * PRIOR).round().astype(int))  # labels of 60,000 examples


def inner(clients: int, alpha: float, labels: np.ndarray, seed: int, scheme: str = "inner-dirichlet") -> np.ndarray:
    """Return the label counts (clients, classes) of a partition."""
    block: dict[str, object] = {"alpha": alpha}
    assignment = partition(scheme, clients, **{"inner-dirichlet": block}).assign(labels, seed)
    return label_counts(assignment, labels, int(labels.max()) + 1)


@given(labels_and_clients, st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_inner_dirichlet_sizes_are_at_most_one_apart(drawn: tuple[np.ndarray, int], alpha: float, seed: int):
    labels, clients = drawn
    sizes = inner(clients, alpha, labels, seed).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(2, 50), st.integers(0, 1000))
@settings(max_examples=25)
def test_inner_dirichlet_sizes_are_those_that_quantity_asks_for(clients: int, seed: int):
    one, other = (
        partition(scheme, clients).assign(BALANCED, seed) for scheme in ("quantity", "inner-dirichlet+quantity")
    )
    assert [*map(len, one)] == [*map(len, other)]


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_inner_dirichlet_mixes_follow_the_distribution_while_classes_last(alpha: float):
    """6,000 clients of 10 examples take about as many of each class as there are, so nearly all is as drawn: of class
    c, a client has a number that is beta-binomial with alpha p_c and alpha (1 - p_c), by Kolmogorov and Smirnov."""
    counts = inner(6000, alpha, UNEQUAL, 3)
    for c, p in enumerate(PRIOR):
        law = stats.betabinom(10, alpha * p, alpha * (1 - p))
        distance = max(abs((counts[:, c] <= k).mean() - law.cdf(k)) for k in range(10))
        assert distance < 1.95 / np.sqrt(6000) + 0.02  # the 99.9 % quantile, and what is left over in the end
    law = stats.dirichlet_multinomial(alpha * PRIOR, 10)
    np.testing.assert_allclose(np.cov(counts.T), law.cov(), rtol=0.1, atol=0.1)


def test_draws_from_a_dirichlet_distribution_have_its_moments_and_margins():
    concentration = 0.5 * PRIOR
    shares = dirichlet(np.tile(concentration, (20_000, 1)), generator(1, "test"))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(np.cov(shares.T), stats.dirichlet(concentration).cov(), atol=0.005)
    for c in range(5):
        margin = stats.beta(concentration[c], concentration.sum() - concentration[c])
        assert stats.kstest(np.maximum(shares[:, c], 1e-300), margin.cdf).statistic < 1.95 / np.sqrt(20_000)


@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=8), st.integers(0, 1000))
def test_shares_are_numbers_whatever_the_concentration(concentration: list[float], seed: int):
    shares = dirichlet(np.array(concentration), generator(seed, "test"))
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1)


def dealt_one_by_one(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Deal as Acar et al. 2021 publish it for FedDyn, with Hsu's prior: a client that is not full yet is drawn, then a
    class from its mix, again until one is drawn that is left."""
    left, full = np.bincount(labels, minlength=10), len(labels) // clients
    mixes = rng.dirichlet(alpha * left / left.sum(), clients)
    counts = np.zeros((clients, 10), dtype=int)
    while left.any():
        client = rng.choice(np.flatnonzero(counts.sum(axis=1) < full))
        mix = mixes[client] * (left > 0)
        label = rng.choice(10, p=mix / mix.sum()) if mix.sum() else rng.choice(np.flatnonzero(left))
        counts[client, label] += 1
        left[label] -= 1
    return counts


def test_inner_dirichlet_deals_as_published_code_does_one_by_one():
    """Each figure of skew has the same mean over seeds, to five standard errors of the difference."""
    labels = np.repeat(np.arange(10), 50)
    ours = [skew(inner(10, 2.0, labels, seed)) for seed in range(60)]
    theirs = [skew(dealt_one_by_one(labels, 10, 2.0, generator(seed, "test"))) for seed in range(60)]
    for figure in ("label_entropy", "jensen_shannon"):
        one, other = (np.array([each[figure] for each in figures]) for figures in (ours, theirs))
        error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 60)
        assert abs(one.mean() - other.mean()) < 5 * error
        assert error < 0.03 * one.mean()  # so that five of them say something


def test_inner_dirichlet_prefers_no_client_by_its_number():
    """Of 20 clients over 200 seeds, the first and the last have the largest share of a class equally often large."""
    largest = np.array([(c := inner(20, 0.5, BALANCED, seed)).max(axis=1) / c.sum(axis=1) for seed in range(200)])
    first, last = largest[:, :10].mean(axis=1), largest[:, 10:].mean(axis=1)
    assert stats.ttest_rel(first, last).pvalue > 0.001
    assert stats.f_oneway(*largest.T).pvalue > 0.001


def test_inner_dirichlet_hardly_prefers_clients_by_their_size():
    """Since the order is that of examples, not of turns, the large ones take little more of what is left over: how
    alike two examples of a client are is about the same. (With a turn for each client it is 0.70 and 0.54.)"""
    settings = partition("inner-dirichlet+quantity", 50, quantity={"sigma": 0.8, "min_examples": 10})
    small, large = [], []
    for seed in range(25):
        counts = counts_of(settings.assign(BALANCED, seed))
        sizes = counts.sum(axis=1)
        alike = (counts * (counts - 1)).sum(axis=1) / (sizes * (sizes - 1))  # two of its examples have one label
        order = np.argsort(sizes)
        small.append(alike[order[:20]].mean())
        large.append(alike[order[-20:]].mean())
    assert np.mean(large) == pytest.approx(np.mean(small), abs=0.1)


def test_inner_dirichlet_is_more_skewed_than_dirichlet_at_the_same_alpha_and_less_than_its_law():
    """Of 20 clients at 0.5, a client's largest class has 0.37 of its examples with dirichlet; a mix drawn from
    Dir(0.5 p) has 0.79. Since all examples are divided, it is in between."""
    drawn = dirichlet(np.full((20_000, 10), 0.05), generator(1, "test")).max(axis=1).mean()
    assert drawn == pytest.approx(0.79, abs=0.01)
    means = []
    for scheme in ("dirichlet", "inner-dirichlet"):
        counts = [counts_of(partition(scheme, 20).assign(BALANCED, seed)) for seed in range(20)]
        means.append(np.mean([(c.max(axis=1) / c.sum(axis=1)).mean() for c in counts]))
    assert means == pytest.approx([0.37, 0.57], abs=0.03)


def test_inner_dirichlet_skews_the_more_the_smaller_alpha():
    distances = [skew(inner(10, alpha, BALANCED, 5))["jensen_shannon"] for alpha in (0.1, 1.0, 10.0, 100.0, 1e6)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.6
    assert distances[-1] < 0.05  # what chance leaves, as with iid


# quantity


@pytest.mark.parametrize("scheme", ["quantity", "shards+quantity", "classes+quantity", "dirichlet+quantity"])
def test_quantity_makes_sizes_unequal_and_leaves_nobody_below_the_least(scheme: str):
    blocks = {"quantity": {"sigma": 1.5, "min_examples": 30}, "dirichlet": {"min_examples": 5}}
    even, uneven = (
        [len(indices) for indices in partition(name, 20, **blocks).assign(BALANCED, 2)]
        for name in (scheme.removesuffix("+quantity").replace("quantity", "iid"), scheme)
    )
    assert gini(np.array(uneven)) > gini(np.array(even)) + 0.1
    assert min(uneven) >= (5 if "dirichlet" in scheme else 30 - 11)  # each class and each piece is rounded


@given(st.integers(1, 200), st.integers(0, 1000))
def test_lognormal_sizes_are_lognormal(clients: int, seed: int):
    weights = Quantity(law="lognormal", sigma=0.8, min_examples=1).weights(10**9, clients, generator(seed, "q"))
    assert weights.sum() == pytest.approx(1)
    expected = np.exp(0.8 * generator(seed, "q").standard_normal(clients))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-3)


def sizes_of(assignment: list[np.ndarray]) -> np.ndarray:
    return np.array([len(indices) for indices in assignment])


def test_power_law_sizes_are_in_the_proportions_of_the_law_and_whose_is_which_is_chance():
    settings = partition("quantity", 4, quantity={"law": "power-law", "exponent": 1.0})
    sizes = [sizes_of(settings.assign(BALANCED, seed)) for seed in range(400)]
    for one in sizes:
        np.testing.assert_allclose(np.sort(one)[::-1], 10_000 * np.array([12, 6, 4, 3]) / 25, atol=3)
    largest = np.bincount([one.argmax() for one in sizes], minlength=4)
    assert abs(largest - 100).max() < 5 * np.sqrt(400 * 3 / 16)


def test_dirichlet_sizes_are_drawn_from_the_distribution():
    """Shares from Dir(0.7, ..., 0.7) of 20 clients have mean 1/20, margins Beta(0.7, 13.3) and one sum."""
    law = Quantity(law="dirichlet", beta=0.7, min_examples=1)
    weights = np.array([law.weights(10**9, 20, generator(seed, "quantity")) for seed in range(500)])
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights.var() == pytest.approx(0.05 * 0.95 / 15, rel=0.1)
    margin = stats.beta(0.7, 0.7 * 19)
    assert stats.kstest(weights.ravel(), margin.cdf).statistic < 1.95 / np.sqrt(10_000)


def test_dirichlet_sizes_differ_the_more_the_smaller_beta():
    ginis = [
        gini(sizes_of(partition("quantity", 20, quantity={"law": "dirichlet", "beta": beta}).assign(BALANCED, 1)))
        for beta in (0.01, 0.1, 1.0, 10.0, 1e6)
    ]
    assert ginis == sorted(ginis, reverse=True)
    assert ginis[0] > 0.8
    assert ginis[-1] < 0.01


def test_dirichlet_with_quantity_keeps_the_sizes_in_the_mean():
    blocks = {"quantity": {"law": "power-law"}, "dirichlet": {"alpha": 1.0}}
    settings = partition("dirichlet+quantity", 4, **blocks)
    sizes, asked = [], []
    for seed in range(200):
        sizes.append(sizes_of(settings.assign(BALANCED, seed)))
        asked.append(sizes_of(partition("quantity", 4, quantity=blocks["quantity"]).assign(BALANCED, seed)))
    by_rank = np.take_along_axis(np.array(sizes), np.argsort(-np.array(asked), axis=1), axis=1)
    np.testing.assert_allclose(by_rank.mean(axis=0), 10_000 * np.array([12, 6, 4, 3]) / 25, rtol=0.05)


@pytest.mark.parametrize("scheme", ["dirichlet", "quantity"])
def test_too_few_examples_for_the_smallest_clients_are_named_with_the_parameter(scheme: str):
    block: dict[str, object] = {"min_examples": 2000}
    settings = partition(scheme, 8, **{scheme: block})
    expected = f"partition.{scheme}.min_examples: 2000 for each of 8 clients exceeds the 10000 training examples"
    assert divided(settings, BALANCED, 1) == (None, expected)


def test_clients_that_would_get_nothing_are_counted():
    settings = partition("shards+quantity", 20, quantity={"sigma": 3.0})
    expected = (
        "partition.scheme: shards+quantity leaves 2 of 20 clients without examples; fewer partition.clients would do"
    )
    assert divided(settings, np.repeat(np.arange(10), 20), 1) == (None, expected)


def test_just_enough_examples_are_enough():
    assignment = partition("quantity", 8, quantity={"min_examples": 1250}).assign(BALANCED, 1)
    assert [len(part) for part in assignment] == [1250] * 8


def test_dirichlet_takes_the_first_draw_with_enough():
    """So to ask for as many as the smallest client has changes nothing."""
    loose = partition("dirichlet", 20, dirichlet={"alpha": 0.5, "min_examples": 30}).assign(BALANCED, 1)
    strict = partition("dirichlet", 20, dirichlet={"alpha": 0.5, "min_examples": min(map(len, loose))})
    assert all(np.array_equal(a, b) for a, b in zip(loose, strict.assign(BALANCED, 1), strict=True))


def test_quantity_divides_whatever_the_spread():
    """With sizes of which the largest, taken by itself, would overflow."""
    weights = Quantity(law="lognormal", sigma=500.0, min_examples=1).weights(10_000, 50, generator(1, "quantity"))
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


# feature


def test_feature_changes_appearance_and_no_labels(sample: Dataset):
    images, settings = sample.train.images[:50], partition("feature", 8)
    one, again, other = (settings.appearance(images, client, 3) for client in (1, 1, 2))
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, again)
    assert not torch.equal(one, images)
    assert not torch.equal(one, other)
    assert torch.equal(partition("iid", 8).appearance(images, 1, 3), images)
    iid, feature = (partition(scheme, 8).assign(BALANCED, 3) for scheme in ("iid", "feature"))
    assert all(np.array_equal(a, b) for a, b in zip(iid, feature, strict=True))


def test_feature_does_nothing_where_all_amounts_are_0(sample: Dataset):
    nothing = partition("feature", 8, feature={"rotation": 0.0, "noise": 0.0, "contrast": 0.0})
    assert torch.equal(nothing.appearance(sample.train.images[:50], 1, 3), sample.train.images[:50])


def test_feature_rotates_by_its_angle(sample: Dataset):
    """Rotated back by the angle that is drawn first, an image is what it was, except for interpolation."""
    images = sample.train.images[:20]
    rotated = Feature(rotation=90.0, noise=0.0, contrast=0.0).apply(images, generator(0, "feature"), 1.0)
    angle = generator(0, "feature").uniform(-90, 90)
    back = rotate(rotated.permute(0, 3, 1, 2).float(), -angle, InterpolationMode.BILINEAR).permute(0, 2, 3, 1)
    assert (back - images).abs().mean() < 0.4 * (rotated.float() - images).abs().mean()


def test_feature_changes_contrast_and_adds_noise_by_its_amounts(sample: Dataset):
    """As written out: what is drawn, then contrast about an image's mean, then noise."""
    images = sample.train.images[:20]
    shown = Feature(rotation=0.0, noise=0.3, contrast=0.4).apply(images, generator(7, "feature"), 1.0)
    rng = generator(7, "feature")
    _, deviation, factor = rng.uniform(0, 0), rng.uniform(0, 0.3), rng.uniform(0.6, 1.4)
    x = images.numpy() / 255
    x = np.clip(factor * x + (1 - factor) * x.mean(axis=(1, 2), keepdims=True), 0, 1)
    x += deviation * rng.standard_normal((20, 1, 28, 28), dtype=np.float32).transpose(0, 2, 3, 1)
    expected = (x.clip(0, 1) * 255).round()
    assert np.abs(shown.numpy() - expected).max() <= 1  # of rounding


def test_increasing_noise_of_client_i_of_n_has_the_variance_sigma_i_n():
    """As in NIID-Bench's paper, for grey images, of which no number is cut off at black or white."""
    images = torch.full((40, 28, 28, 1), 128, dtype=torch.uint8)
    block: dict[str, object] = {"rotation": 0.0, "noise": 0.0, "contrast": 0.0, "increasing_noise": 0.01}
    settings = partition("feature", 5, feature=block)
    for client in range(5):
        shown = settings.appearance(images, client, 3).double() / 255
        assert shown.mean() == pytest.approx(128 / 255, abs=0.005)
        assert shown.var() == pytest.approx(0.01 * (client + 1) / 5, rel=0.05)


def test_both_noises_of_feature_add_up(sample: Dataset):
    """Variances do; the deviation that is drawn is the generator's second number."""
    images = torch.full((40, 28, 28, 1), 128, dtype=torch.uint8)
    feature = Feature(rotation=0.0, noise=0.2, contrast=0.0, increasing_noise=0.02)
    shown = feature.apply(images, generator(4, "feature"), 0.5).double() / 255
    rng = generator(4, "feature")
    _, deviation = rng.uniform(0, 0), rng.uniform(0, 0.2)
    assert deviation > 0.05
    assert shown.var() == pytest.approx(deviation**2 + 0.01, rel=0.05)


def test_feature_turns_to_both_sides(sample: Dataset):
    angles = [generator(seed, "feature").uniform(-90, 90) for seed in range(20)]
    assert min(angles) < -30
    assert max(angles) > 30
    images = sample.train.images[:3]
    for seed, angle in enumerate(angles):
        shown = Feature(rotation=90.0, noise=0.0, contrast=0.0).apply(images, generator(seed, "feature"), 1.0)
        expected = rotate(images.permute(0, 3, 1, 2).float() / 255, angle, InterpolationMode.BILINEAR) * 255
        expected = expected.permute(0, 2, 3, 1)
        assert (shown - expected.round()).abs().max() <= 1


def test_feature_takes_colour_images_and_no_others():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8))
    assert Feature().apply(images, generator(0, "feature"), 1.0).shape == images.shape
    assert torch.equal(
        Feature(rotation=0.0, noise=0.0, contrast=0.0).apply(images, generator(0, "feature"), 1.0), images
    )
    with pytest.raises(UserError, match=r"^partition\.scheme: feature: images have 2 channels, and not 1 or 3$"):
        Feature().apply(images[..., :2], generator(0, "feature"), 1.0)


# natural


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200).map(np.array), st.integers(0, 2**32))
def test_natural_gives_each_client_its_own_examples(owners: np.ndarray, seed: int):
    clients = np.unique(owners)
    assignment = partition("natural", len(clients)).assign(np.zeros(len(owners), int), seed, owners)
    for client, indices in zip(clients, assignment, strict=True):
        assert indices.tolist() == [place for place, owner in enumerate(owners) if owner == client]


def test_natural_needs_to_know_whose_the_examples_are_and_as_many_clients():
    labels, owners = np.zeros(6, int), np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(UserError, match=r"^partition\.scheme: natural, but the data set does not say whose"):
        partition("natural", 3).assign(labels, 0)
    with pytest.raises(
        UserError, match=r"^partition\.clients: 2, but the data has 3 clients of its own; take as many$"
    ):
        partition("natural", 2).assign(labels, 0, owners)
    for given_too in ({"scheme": "natural+quantity"}, {"scheme": "natural", "examples_per_client": 5}):
        with pytest.raises(ValueError, match="the clients' own examples are theirs; leave"):
            Partition.model_validate(given_too)


# The hold-out


@example(2, 0.99, 0)  # of two examples, one is held out
@example(1, 0.99, 0)
@given(st.integers(1, 300), st.floats(0, 0.99), st.integers(0, 100))
def test_the_holdout_is_a_part_of_the_clients_examples(n: int, fraction: float, client: int):
    indices = np.arange(7, 7 + n)
    training, held_out = Partition(holdout=fraction).hold_out(indices, client, 5)
    assert sorted([*training, *held_out]) == indices.tolist()
    assert len(held_out) == min(round(fraction * n), n - 1)
    assert (np.diff(training) > 0).all()


@given(st.integers(1, 40), st.integers(1, 30), st.floats(0.05, 0.95))
def test_where_clients_have_the_same_examples_nobody_trains_on_what_another_tests_on(
    clients: int, each: int, fraction: float
):
    partition, labels = Partition(clients=clients, examples_per_client=each, holdout=fraction), np.arange(200) % 10
    by_all = partition.held_out_by_all(len(labels), 5)
    assert by_all is not None
    for client, indices in enumerate(partition.assign(labels, 5)):
        training, held_out = partition.hold_out(indices, client, 5, by_all)
        assert sorted([*training, *held_out]) == indices.tolist()
        assert by_all[held_out].all()
        assert not by_all[training].any() or (len(training) == 1 and by_all[indices].all())  # which has no other


def test_where_no_two_clients_have_the_same_example_each_draws_what_it_holds_out():
    assert Partition(holdout=0.2).held_out_by_all(100, 5) is None
    assert Partition(examples_per_client=5).held_out_by_all(100, 5) is None


# Figures of skew


def test_skew_of_clients_alike_and_of_clients_apart():
    alike, apart = np.full((5, 10), 7), 40 * np.eye(10)
    assert skew(alike) == pytest.approx({"label_entropy": np.log2(10), "jensen_shannon": 0, "gini": 0}, abs=1e-7)
    middle = 0.55  # the mean frequency of a client's class: (1 + 1/10) / 2; that of every other class is 1/20
    divergence = 0.5 * np.log2(1 / middle) + 0.5 * (0.1 * np.log2(0.1 / middle) + 0.9 * np.log2(0.1 / 0.05))
    expected = {"label_entropy": 0, "jensen_shannon": np.sqrt(divergence), "gini": 0}
    assert skew(apart) == pytest.approx(expected, abs=1e-7)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50).map(np.array))
def test_gini_is_half_the_relative_mean_difference(sizes: np.ndarray):
    differences = np.abs(sizes[:, None] - sizes[None, :]).mean()
    assert gini(sizes) == pytest.approx(differences / (2 * sizes.mean()), abs=1e-12)


# More clients than examples


@pytest.mark.parametrize("scheme", SCHEMES)
@given(labels_and_clients, st.integers(1, 20), st.integers(0, 2**32))
def test_with_replacement_any_number_of_clients_share_the_examples(
    scheme: str, drawn: tuple[np.ndarray, int], examples: int, seed: int
):
    labels, clients = drawn
    settings = partition(scheme, clients + 50).model_copy(update={"examples_per_client": examples})
    assignment, _ = divided(settings, labels, seed)
    if assignment is None:
        return  # the scheme cannot divide these few examples
    assert len(assignment) == clients + 50
    indices = np.concatenate(assignment)
    assert len(indices) == (clients + 50) * examples
    assert indices.min() >= 0
    assert indices.max() < len(labels)
    assert all((np.diff(part) >= 0).all() for part in assignment)


def test_with_replacement_every_example_is_equally_likely():
    """In 100,000 draws each of 50 examples is expected 2,000 times, with a standard deviation of 44."""
    assignment = Partition(clients=1000, examples_per_client=100).assign(np.arange(50) % 10, 3)
    assert {len(indices) for indices in assignment} == {100}
    assert abs(np.bincount(np.concatenate(assignment), minlength=50) - 2000).max() < 5 * 44


def test_more_clients_than_examples_are_refused_without_replacement():
    sentence = "11 exceeds the 10 training examples; partition.examples_per_client draws them with replacement"
    with pytest.raises(UserError, match=rf"^partition\.clients: {sentence}$"):
        Partition(clients=11).assign(np.arange(10), 0)
