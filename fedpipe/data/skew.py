"""Figures that say how much clients' data differ, computed from their label counts alone."""

import numpy as np


def skew(counts: np.ndarray) -> dict[str, float]:
    """Measure how much the clients' labels and sizes differ.

    Args:
        counts: (clients, classes), each client's number of training examples of each label.

    Returns:
        label_entropy: the mean over clients of the entropy of their labels, in bits; 0 if each has one class.
        jensen_shannon: the mean over clients of the Jensen-Shannon distance (base 2, 0..1) between their label
            frequencies and those of all examples; 0 if they agree.
        gini: the Gini coefficient of the clients' sizes; 0 if they are equal, close to 1 if one client has nearly all.

    References:
        Lin 1991, "Divergence measures based on the Shannon entropy"; Endres & Schindelin 2003, "A new metric for
        probability distributions".
    """
    from scipy.spatial.distance import jensenshannon  # here, because the import takes half a second
    from scipy.stats import entropy

    total = counts.sum(axis=0)
    distances = jensenshannon(counts, total[None], base=2, axis=1)  # pyright: ignore[reportCallIssue]
    return {
        "label_entropy": float(np.mean(entropy(counts, base=2, axis=1))),
        "jensen_shannon": float(np.mean(distances)),
        "gini": gini(counts.sum(axis=1)),
    }


def gini(sizes: np.ndarray) -> float:
    """Return the Gini coefficient: half the relative mean absolute difference, Σ_ij |x_i - x_j| / (2 n Σ x)."""
    ordered, n = np.sort(sizes), len(sizes)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))
