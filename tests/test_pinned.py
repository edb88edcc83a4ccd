"""Draws that stay what they are from version to version, so that a committed result can be made again.

Whoever changes one of these on purpose changes every result that follows from it, and pins the new ones here. What is
pinned are whole numbers, which do not depend on the machine; NumPy's release notes say if a version draws otherwise.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from fedpipe.data.partition.settings import Partition
from fedpipe.federated.sampling import Cohort, Sampling
from fedpipe.privacy.noise import discrete_gaussian, reproducible
from fedpipe.system.randomness import generator

LABELS = np.repeat(np.arange(10), 300)
SIZES = [10, 20, 30, 40, 50, 60, 70, 80]


def digest(parts: Iterable[Iterable[int]]) -> str:
    """The head of a hash of lists of whole numbers."""
    return hashlib.sha256(repr([list(map(int, part)) for part in parts]).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "ec5ce5b0e179"),
        ({"examples_per_client": 50}, "6c542a49b153"),
        ({"scheme": "shards"}, "99f5db8f5053"),
        ({"scheme": "classes"}, "5fdf43dc1d49"),
        ({"scheme": "dirichlet"}, "3122566e1a0c"),
        ({"scheme": "quantity"}, "1ba5ecdab4b7"),
        ({"scheme": "quantity", "quantity": {"law": "power-law"}}, "429bad156cbf"),
        ({"scheme": "classes+quantity"}, "9bcbf7d694d8"),
        ({"scheme": "inner-dirichlet"}, "21a444a1636b"),
        ({"scheme": "inner-dirichlet+quantity"}, "e0c881862259"),
        ({"scheme": "classes", "classes": {"holders": "random"}}, "ebb08b5ca928"),
        ({"scheme": "quantity", "quantity": {"law": "dirichlet"}}, "0fa8d81b283a"),
    ],
)
def test_the_partition_of_a_seed(settings: dict[str, Any], expected: str):
    assert digest(Partition.model_validate(settings).assign(LABELS, 42)) == expected


def test_the_holdout_of_a_seed():
    settings = Partition(holdout=0.3)
    assert (
        digest(part for client in (0, 1, 2) for part in settings.hold_out(np.arange(100), client, 42)) == "f3fc05b6a212"
    )


def test_the_appearance_of_a_seed():
    """Rotated by nothing and without noise, so that it is the factor of the contrast that is drawn."""
    settings = Partition.model_validate({"scheme": "feature", "feature": {"rotation": 0.0, "noise": 0.0}})
    images = torch.zeros(1, 28, 28, 1, dtype=torch.uint8)
    images[0, 10:18, 10:18] = 128
    shown = [settings.appearance(images, client, 42)[0, 14, 14].item() for client in range(5)]
    assert shown == [128, 160, 98, 71, 118]


def test_the_increasing_noise_of_a_seed():
    block = {"rotation": 0.0, "noise": 0.0, "contrast": 0.0, "increasing_noise": 0.1}
    settings = Partition.model_validate({"scheme": "feature", "feature": block})
    grey = torch.full((1, 28, 28, 1), 128, dtype=torch.uint8)
    shown = [settings.appearance(grey, client, 42)[0, 14, 14].item() for client in range(5)]
    assert shown == [125, 53, 120, 45, 249]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "56850819958b"),
        ({"sampling": "size"}, "f3571c3d4acd"),
        ({"sampling": "poisson"}, "1c01ed8d4e29"),
        ({"sampling": "shuffled"}, "a666d9ed2d6e"),
        ({"dropout": 0.3, "stragglers": 0.4}, "0b66919cadc5"),
        ({"objective": "clients"}, "077effec1864"),
    ],
)
def test_the_cohorts_of_a_seed(settings: dict[str, Any], expected: str):
    def numbers(cohort: Cohort) -> Iterable[int]:
        return (
            int(number) for each in cohort.invited for number in (each.client, each.weight, each.epochs, each.fails)
        )

    cohorts = [Sampling.model_validate(settings).draw(SIZES, 5, 42, round) for round in range(1, 21)]
    assert digest(map(numbers, cohorts)) == expected


@pytest.mark.parametrize(("sigma", "expected"), [(3, "09cbdc839492"), (2**30, "237d7604879d")])
def test_the_privacy_noise_of_a_seed(sigma: int, expected: str):
    drawn = discrete_gaussian(sigma, 1000, reproducible(generator(42, "privacy noise", round=1)))
    assert digest([drawn]) == expected
