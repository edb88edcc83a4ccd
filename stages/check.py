"""Check all of params.yaml before anything else runs, so that a mistake in it costs nothing.

DVC deletes a stage's outputs before it runs the stage. This one writes, for each stage, what its result follows from:
the parameters that count and the hashes of the code that it runs. The stages depend on that rather than on params.yaml
and on files of code, so that what a stage does not use reruns nothing.
"""

from pathlib import Path

from fedpipe import pipeline
from fedpipe.config.file import run_stage
from fedpipe.system import files

OUT = Path("data/inputs")


def main() -> None:
    checked = pipeline.check()
    for stage, follows_from in pipeline.inputs(checked).items():
        files.write_json(OUT / f"{stage}.json", follows_from)


if __name__ == "__main__":
    run_stage(main)
