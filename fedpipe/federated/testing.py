"""The evaluation of the server's model on validation data or the test set, divided among an engine's workers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedpipe.data.datasets import load_to
from fedpipe.federated.attacks.base import Attack
from fedpipe.models.base import Architecture
from fedpipe.models.parameters import Parameters, scratch_network_with
from fedpipe.training.arithmetic import Arithmetic
from fedpipe.training.evaluation import CHUNK, Part, evaluate_part

PART = 5 * CHUNK  # examples that make a task


def parts(examples: int) -> list[range]:
    """Divide the examples into tasks."""
    return [range(start, min(start + PART, examples)) for start in range(0, examples, PART)]


@dataclass(frozen=True)
class EvaluateParts:
    """Evaluate a model on parts of a file's examples: an engine's job."""

    architecture: Architecture
    examples: Path  # as `fedpipe.data.datasets.save` writes it
    arithmetic: Arithmetic
    attack: Attack | None = None  # whose trigger the images bear; None for images as they are

    def __call__(self, parameters: Parameters, tasks: Iterable[range]) -> list[Part]:
        device = self.arithmetic.torch_device()
        examples = load_to(device, self.examples)
        network = scratch_network_with(self.architecture, parameters, device)
        evaluated: list[Part] = []
        for task in tasks:
            images, labels = examples.images[task.start : task.stop], examples.labels[task.start : task.stop]
            images = self.attack.triggered(images) if self.attack else images
            evaluated.append(evaluate_part(network, images, labels, self.architecture.spec, task.start))
        return evaluated
