"""Errors that a user can fix. Every other exception is a bug and keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Report a mistake that the user can fix, in one line that says where, what, and what would work."""


class ParameterError(UserError):
    """Report a parameter whose value cannot work.

    The library knows the parameter's dotted path and no file. Code that read the parameters from a file adds its name
    (see `fedpipe.config.file.parameters_from`).

    Args:
        parameter: the dotted path, such as ``federated.rounds``.
        problem: the value, what is wrong with it, and what would work.
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(parameter, problem)  # both, so that the error survives pickling
        self.parameter, self.problem = parameter, problem

    def __str__(self) -> str:
        return f"{self.parameter}: {self.problem}"


@contextmanager
def naming(file: Path | str) -> Iterator[None]:
    """Have every OSError that the block raises name the file that the block writes, by the name that the user knows.

    The system names none if a disk is full, and a temporary one elsewhere.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(file)
        raise
