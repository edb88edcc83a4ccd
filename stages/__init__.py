"""The stages of the pipeline, a module each, which DVC runs."""

import os
import signal
import sys
from typing import Any, NoReturn


def _end(signum: int, frame: Any) -> NoReturn:
    """End at once on Ctrl-C while a stage still imports what it needs: libraries may make another error of it."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a stage starts
    signal.signal(signal.SIGINT, _end)
