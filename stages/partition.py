"""The training set into client shards."""

from pathlib import Path

from fedpipe import console, datasets, params, shards
from fedpipe.partition import Partition

TRAIN = Path("data/mnist/train.safetensors")
OUT = Path("data/shards")


def main() -> None:
    settings = params.read(Partition, at="partition")
    seed = params.read_seed()
    train = datasets.load(TRAIN)
    assignment = settings.assign(train.labels.numpy(), seed)
    with console.progress("clients", settings.clients) as bar:
        shards.write(OUT, train.images, train.labels, assignment, datasets.CLASSES, on_client=bar.advance)
    sizes = [len(indices) for indices in assignment]
    console.say(f"{settings.scheme}: {settings.clients} clients of {min(sizes):,} to {max(sizes):,} examples")


if __name__ == "__main__":
    console.run(main)
