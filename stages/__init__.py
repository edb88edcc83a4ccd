"""The stages of the pipeline, a module each, which DVC runs."""

import sys
from types import TracebackType


def _without_traceback(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Say of Ctrl-C while a stage is still importing what it needs that it was interrupted, and no more."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _without_traceback
