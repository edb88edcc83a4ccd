"""The mathematics of robust aggregation: one vector of n, of which up to f may be anything at all.

Updates are (n, d) float64, a row for each client in the order of the clients' numbers, and finite. Every function
returns the same bits for the same rows, whatever the number of threads: sums are made by NumPy and SciPy, which use
one thread and an order of their own. Distances are those of differences of rows, so that what all rows have in common
costs no digits. SciPy is imported where distances are computed: it takes half a second, and most rounds need none.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

BLOCK = 512  # columns that stay in the processor's cache together


def hostile_among(n: int, fraction: float) -> int:
    """Return f, a fraction of n rounded up; the fraction counts as its decimal digits say: 0.1 of 30 is 3."""
    return math.ceil(Fraction(str(fraction)) * n)


def coordinate_median(updates: Tensor) -> Tensor:
    """Return the median of each coordinate (d,); of an even number, the mean of the two in the middle.

    It lies within the range of the honest values in every coordinate where n > 2f. Yin et al. 2018, arXiv:1803.01498,
    definition 1.
    """
    return torch.from_numpy(_middle(np.sort(updates.numpy(), axis=0)))


def trimmed_mean(updates: Tensor, f: int) -> Tensor:
    """Return the mean of each coordinate (d,) without its f largest and its f smallest values.

    Raises:
        ValueError: n is less than 2f + 1.

    References:
        Yin et al. 2018, arXiv:1803.01498, definition 2.
    """
    _require(updates, 2 * f + 1)
    return torch.from_numpy(np.sort(updates.numpy(), axis=0)[f : len(updates) - f].mean(axis=0))


def krum(updates: Tensor, f: int) -> Tensor:
    """Return the row (d,) with the best score, the first of `krum_order`.

    Raises:
        ValueError: n is less than 2f + 3.
    """
    return updates[krum_order(updates, f)[0]]


def multi_krum(updates: Tensor, f: int) -> Tensor:
    """Return the mean (d,) of the n - f rows with the best scores, the first of `krum_order`.

    Raises:
        ValueError: n is less than 2f + 3.
    """
    chosen = sorted(krum_order(updates, f)[: len(updates) - f])
    return torch.from_numpy(updates[chosen].numpy().mean(axis=0))


def krum_order(updates: Tensor, f: int) -> list[int]:
    """Return the numbers of all rows, from Krum's choice to the least trusted one.

    A row's score is the sum of the squared distances to the n - f - 2 other rows that are nearest to it; of equal
    scores the lower row comes first.

    Raises:
        ValueError: n is less than 2f + 3.

    References:
        Blanchard et al. 2017, arXiv:1703.02757, section 4.
    """
    _require(updates, 2 * f + 3)
    return _by_score(_squared_distances(updates), f)


def bulyan(updates: Tensor, f: int) -> Tensor:
    """Return the mean of the n - 4f values of each coordinate (d,) that are nearest to the median of Krum's selection.

    Raises:
        ValueError: n is less than 4f + 3.

    References:
        El Mhamdi et al. 2018, arXiv:1802.07927.
    """
    selected = updates[bulyan_selection(updates, f)]
    return torch.from_numpy(_mean_around_median(selected.numpy(), len(updates) - 4 * f))


def bulyan_selection(updates: Tensor, f: int) -> list[int]:
    """Return the n - 2f rows that Krum chooses one after the other, each from those that are left, in ascending order.

    Towards the end fewer rows are left than Krum needs; scores count one neighbour at least.

    Raises:
        ValueError: n is less than 4f + 3.
    """
    _require(updates, 4 * f + 3)
    distances = _squared_distances(updates)
    left = list(range(len(updates)))
    for _ in range(len(updates) - 2 * f):
        del left[_by_score(distances[np.ix_(left, left)], f)[0]]
    return sorted({*range(len(updates))} - {*left})


def geometric_median(updates: Tensor, nu: float, iterations: int, tolerance: float) -> Tensor:
    """Return the vector (d,) with the least sum of distances to the rows.

    The smoothed Weiszfeld algorithm, from the median of each coordinate: of a start at the mean, an attacker could
    decide how many iterations it takes to come back.

    Args:
        updates: (n, d).
        nu: distances count as at least this much.
        iterations: at most.
        tolerance: it ends after a step shorter than this times the median of the distances.

    References:
        Pillutla et al. 2022, arXiv:1912.13445.
    """
    start = coordinate_median(updates).numpy()
    rows = updates.numpy() - start
    point = np.zeros_like(start)
    for _ in range(iterations):
        distances = _distances(rows, point)
        smoothed = np.maximum(distances, nu)
        weights = smoothed.min() / smoothed  # in proportion to 1 / smoothed, which might be too large a number
        before, point = point, _weighted_sum(weights / weights.sum(), rows)
        if _distances(before[None], point)[0] <= tolerance * np.median(distances):
            break
    return torch.from_numpy(start + point)


def centered_clipping(updates: Tensor, centre: Tensor, radius: float, iterations: int) -> Tensor:
    """Return the centre (d,) moved by the mean of the differences of the rows from it, each clipped to the radius.

    v ← v + 1/n Σ_i (x_i - v) min(1, radius / ‖x_i - v‖), several times.

    References:
        Karimireddy et al. 2021, arXiv:2012.10333.
    """
    rows, point = updates.numpy(), centre.numpy()
    for _ in range(iterations):
        scales = radius / np.maximum(_distances(rows, point), radius)
        point = point + _weighted_sum(scales / len(rows), (row - point for row in rows))
    return torch.from_numpy(point)


def mixed_with_nearest(updates: Tensor, f: int) -> Tensor:
    """Return each row's mean with the n - f - 1 others that are nearest to it (n, d): nearest-neighbour mixing.

    Of others equally far away the lower ones count.

    Raises:
        ValueError: n is less than 2f + 1.

    References:
        Allouah et al. 2023, arXiv:2302.01772.
    """
    _require(updates, 2 * f + 1)
    by_distance = np.argsort(_squared_distances(updates), axis=1, kind="stable")  # itself first, or one that equals it
    nearest = np.sort(by_distance[:, : len(updates) - f], axis=1)
    rows = updates.numpy()
    mixed = np.empty_like(rows)
    for start in range(0, rows.shape[1], BLOCK):
        block = rows[:, start : start + BLOCK].copy()
        for row, others in enumerate(nearest):
            mixed[row, start : start + BLOCK] = block[others].mean(axis=0)
    return torch.from_numpy(mixed)


def bounded(vector: Tensor, norm: float) -> Tensor:
    """Return a vector (d,) scaled down so that its L2 norm is at most `norm`, as float64. Sun et al. 2019,
    arXiv:1911.07963.
    """
    vector = vector.double()
    length = _distances(vector.numpy()[None], np.zeros(len(vector)))[0]
    return vector * (norm / max(length, norm))


def _require(updates: Tensor, fewest: int) -> None:
    if len(updates) < fewest:
        raise ValueError(f"{len(updates)} updates are too few: this takes {fewest}")


def _middle(ordered: np.ndarray) -> np.ndarray:
    """Return the median (d,) of values (n, d) in ascending order."""
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _mean_around_median(values: np.ndarray, count: int) -> np.ndarray:
    """Return the mean (d,) of the `count` values of each column that are nearest to its median; first the lower."""
    ordered = np.sort(values, axis=0)
    nearest = np.argsort(np.abs(ordered - _middle(ordered)), axis=0, kind="stable")[:count]
    return np.take_along_axis(ordered, nearest, axis=0).mean(axis=0)


def _by_score(distances: np.ndarray, f: int) -> list[int]:
    """Return the rows from the best of Krum's scores to the worst, by the squared distances (n, n) between them."""
    n = len(distances)
    others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    scores = np.sort(others, axis=1)[:, : max(1, n - f - 2)].sum(axis=1)
    return np.argsort(scores, kind="stable").tolist()


def _squared_distances(updates: Tensor) -> np.ndarray:
    """Return the squared distances (n, n) between rows."""
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(updates.numpy(), "sqeuclidean"))


def _distances(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the distance (n,) of each row from a point (d,)."""
    from scipy.spatial.distance import cdist

    return cdist(rows, point[None])[:, 0]


def _weighted_sum(weights: np.ndarray, vectors: Iterable[np.ndarray]) -> np.ndarray:
    """Return Σ_i w_i x_i, added up in this order."""
    return sum((weight * vector for weight, vector in zip(weights, vectors, strict=True)), np.zeros(()))
