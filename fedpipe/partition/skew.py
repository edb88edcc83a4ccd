"""How unlike each other the clients are, in a few figures. From the counts of their labels alone."""

import numpy as np


def skew(counts: np.ndarray) -> dict[str, float]:
    """Of the (clients, classes) numbers of training examples:

    - label_entropy: the mean over clients of the entropy of their labels, in bits; 0: one class each.
    - jensen_shannon: the mean over clients of the Jensen-Shannon distance (base 2, 0..1) of their label frequencies
      from those of the whole; 0: the same. Lin 1991, Endres & Schindelin 2003.
    - gini: of the clients' sizes, 0: equal, towards 1: one client has all.
    """
    from scipy.spatial.distance import jensenshannon  # here, because it takes half a second
    from scipy.stats import entropy

    whole = counts.sum(axis=0)
    return {
        "label_entropy": float(np.mean(entropy(counts, base=2, axis=1))),
        "jensen_shannon": float(np.mean([jensenshannon(own, whole, base=2) for own in counts])),
        "gini": gini(counts.sum(axis=1)),
    }


def gini(sizes: np.ndarray) -> float:
    """Half the relative mean absolute difference: Σ_ij |x_i - x_j| / (2 n Σ x), from the sorted sizes."""
    ordered, n = np.sort(sizes), len(sizes)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))
