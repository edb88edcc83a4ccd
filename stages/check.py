"""Check all of params.yaml before anything else runs, so that a mistake in it costs nothing.

DVC deletes a stage's outputs before it runs the stage. This stage's output never changes, so it invalidates none.
"""

from pathlib import Path

from fedpipe import pipeline
from fedpipe.config.file import run_stage
from fedpipe.system import files

OUT = Path("data/params-checked")


def main() -> None:
    pipeline.check()
    files.write_text(OUT, "params.yaml is valid\n")


if __name__ == "__main__":
    run_stage(main)
