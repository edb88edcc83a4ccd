"""Write the page of the run: question and answer, figures, parameters, provenance, and what it does not show."""

from pathlib import Path

from fedpipe.config.file import run_stage
from fedpipe.results.report import page
from fedpipe.results.run import read_run
from fedpipe.results.source import Workspace
from fedpipe.system import console, files

PAGE = Path("reports/report.html")


def main() -> None:
    files.write_text(PAGE, page(read_run(Workspace())))
    console.say(f"{PAGE}: open it in a browser, or send it to somebody; it needs no other file")


if __name__ == "__main__":
    run_stage(main)
