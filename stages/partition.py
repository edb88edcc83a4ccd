"""Divide the training set among the clients, and write each client's shard."""

from pathlib import Path

from pydantic import Field

from fedpipe.config import file as params
from fedpipe.config.section import Section, Seed
from fedpipe.data import datasets, store
from fedpipe.data.partition.settings import Partition
from fedpipe.data.shards import write_shards
from fedpipe.data.skew import skew
from fedpipe.system import console

DATASET = Path("data/dataset")
OUT = Path("data/shards")


class Settings(Section):
    """Hold the parameters that this stage reads."""

    seed: Seed
    partition: Partition = Field(description="The training set is divided among the clients.")


def main() -> None:
    settings = params.read(Settings, only_its_fields=True)
    seed, partition = settings.seed, settings.partition
    dataset = datasets.describe(DATASET / "dataset.json")
    train = datasets.load(DATASET / "train.safetensors")

    with console.progress("clients", partition.clients) as bar:
        training, _ = write_shards(OUT, train, dataset.spec.classes, partition, seed, on_client=bar.advance)
    sizes = [len(indices) for indices in training]
    figures = skew(store.label_counts(training, train.labels.numpy(), dataset.spec.classes))
    console.say(
        f"{partition.scheme}: {partition.clients:,} clients of {min(sizes):,} to {max(sizes):,} examples; "
        f"label entropy {figures['label_entropy']:.2f} bits, Jensen-Shannon distance from the whole "
        f"{figures['jensen_shannon']:.2f}, Gini coefficient of sizes {figures['gini']:.2f}"
    )


if __name__ == "__main__":
    params.run_stage(main)
