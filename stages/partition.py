"""The training set into client shards."""

from pathlib import Path

from fedpipe import console, datasets, files, params, shards
from fedpipe.partition import Partition
from fedpipe.partition.skew import skew

MNIST = Path("data/mnist")
OUT = Path("data/shards")
METRICS = Path("reports/partition/metrics.json")


def main() -> None:
    settings = params.read(Partition, at="partition")
    seed = params.read_seed()
    dataset = datasets.describe(MNIST / "dataset.json")
    train = datasets.load(MNIST / "train.safetensors")
    labels = train.labels.numpy()

    parts = [settings.hold_out(indices, client, seed) for client, indices in enumerate(settings.assign(labels, seed))]
    assignment, held_out = ([part[i] for part in parts] for i in (0, 1))
    with console.progress("clients", settings.clients) as bar:
        shards.write(
            OUT, train.images, train.labels, assignment, dataset.classes, held_out=held_out,
            look=lambda images, client: settings.look(images, client, seed), on_client=bar.advance,
        )  # fmt: skip
    sizes = [len(indices) for indices in assignment]
    figures = skew(shards.label_counts(assignment, labels, dataset.classes))
    metrics = {
        "dataset": dataset.name,
        "clients": settings.clients,
        "examples": sum(sizes),
        "held_out": sum(map(len, held_out)),
        "smallest": min(sizes),
        "largest": max(sizes),
    }
    files.write_json(METRICS, {"partition": metrics | figures})
    console.say(
        f"{settings.scheme}: {settings.clients:,} clients of {min(sizes):,} to {max(sizes):,} examples; "
        f"label entropy {figures['label_entropy']:.2f} bits, Jensen-Shannon distance from the whole "
        f"{figures['jensen_shannon']:.2f}, Gini of sizes {figures['gini']:.2f}"
    )


if __name__ == "__main__":
    console.run(main)
