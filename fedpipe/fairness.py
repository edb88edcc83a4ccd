"""How well each client is served, and how evenly: figures from accuracies and label counts alone."""

import math
from statistics import fmean

import numpy as np

from fedpipe.data.skew import gini


def spread(values: np.ndarray) -> dict[str, float]:
    """Describe how a figure such as the accuracy is spread over clients, each of which counts alike.

    Args:
        values: (clients,), at least one, none of them NaN.

    Returns:
        mean, median.
        worst_tenth: the mean over the worst tenth of the clients, rounded up to a whole number of them.
        std: the standard deviation over these clients, which are all there are (n in the denominator).
        gini: the Gini coefficient; 0 if all are served alike, or none at all.

    References:
        Li et al. 2020, "Fair resource allocation in federated learning", arXiv:1905.10497, reports the mean, the worst
        tenth and the variance of clients' accuracies.
    """
    worst = np.sort(values)[: math.ceil(len(values) / 10)]
    return {
        "mean": fmean(values),
        "median": float(np.median(values)),
        "worst_tenth": fmean(worst),
        "std": math.sqrt(fmean((values - fmean(values)) ** 2)),
        "gini": max(0.0, gini(values)) if values.any() else 0.0,  # rounding may go below 0
    }


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Return (classes,) float64: the accuracy on the examples of each class, NaN for a class that has none.

    Args:
        confusion: (classes, classes) int, examples by actual and predicted class.
    """
    examples = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), examples, out=np.full(len(confusion), np.nan), where=examples > 0)


def own_labels_accuracy(accuracies: np.ndarray, counts: np.ndarray) -> np.ndarray | np.float64:
    """Return the test accuracy weighted by clients' own labels, Σ_c p_k(c) acc_c.

    It estimates the accuracy on data like the client's own if clients differ in their labels alone: p(x | y) must be
    that of the test set, so that it says nothing of images that look different from client to client.

    Args:
        accuracies: (classes,) acc_c, the model's accuracy on the test examples of each class; NaN for a class that has
            none, which is left out.
        counts: (..., classes) the numbers of a client's training examples of each label; p_k(c) is their share.

    Returns:
        (...) float64; NaN for a client that has only labels of which there are no test examples.
    """
    known = ~np.isnan(accuracies)
    weights, totals = counts[..., known], counts[..., known].sum(axis=-1)
    right = weights @ accuracies[known]
    return np.divide(right, totals, out=np.full(np.shape(right), np.nan), where=totals > 0)[()]
