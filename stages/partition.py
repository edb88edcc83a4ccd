"""The training set into client shards."""

from pathlib import Path

from fedpipe import console, datasets, params, shards
from fedpipe.errors import UserError
from fedpipe.partition import Partition
from fedpipe.randomness import generator

TRAIN = Path("data/mnist/train.safetensors")
OUT = Path("data/shards")


def main() -> None:
    settings = params.read(Partition, at="partition")
    seed = params.read_seed()
    train = datasets.load(TRAIN)
    if settings.clients > len(train):
        raise UserError(
            f"params.yaml: partition.clients: {settings.clients} exceeds the {len(train)} training examples"
        )
    assignment = settings.partitioner.assign(train.labels.numpy(), settings.clients, generator(seed, "partition"))
    shards.write(OUT, train.images, train.labels, assignment, datasets.CLASSES)
    sizes = [len(indices) for indices in assignment]
    console.say(f"{settings.scheme}: {settings.clients} clients of {min(sizes):,} to {max(sizes):,} examples")


if __name__ == "__main__":
    console.run(main)
