"""Download MNIST or another data set, verify it, and write it as tensors to data/dataset.

If the environment variable FEDPIPE_DATA names a folder or a URL, the data set's folder in it is tried first.
"""

from pathlib import Path

from rich.panel import Panel

from fedpipe.config import file as params
from fedpipe.data import datasets, sources
from fedpipe.system import console

OUT = Path("data/dataset")


def main() -> None:
    settings = params.read(sources.Download, at="download")
    OUT.mkdir(parents=True, exist_ok=True)
    dataset = sources.fetch(settings, sources.named_source(settings.dataset), OUT, console.say)
    datasets.save(dataset, OUT)
    if settings.original and dataset.name != settings.original.name:
        console.console.print(
            Panel(
                "[bold]THIS IS NOT MNIST[/] but a sample of 5,000 of its images, because no source answered.\n"
                "Every table and figure will say so. For the real data set, name a folder or a mirror and run again:\n"
                f"  {sources.SOURCE_VARIABLE}=DIR_OR_URL dvc repro -f -s download && dvc repro",
                style="yellow",
            ),
            soft_wrap=False,
        )
    validation = f", {len(dataset.validation):,} validation" if dataset.validation else ""
    console.say(f"{dataset.name}: {len(dataset.train):,} training{validation} and {len(dataset.test):,} test images")


if __name__ == "__main__":
    params.run_stage(main)
