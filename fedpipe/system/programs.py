"""Other programs, such as git and DVC: run for what they print, and found running."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedpipe.system.errors import UserError
from fedpipe.system.lifetime import lives


def output_of(program: Sequence[str], *arguments: str, given: str = "") -> str:
    """Run a program, and return what it prints.

    Args:
        program: its name, or what else starts it.
        arguments: what follows.
        given: what it reads from its standard input.

    Raises:
        UserError: it cannot be run, or fails; the line says how.
    """
    name = program[-1]
    try:
        done = subprocess.run([*program, *arguments], input=given, capture_output=True, text=True, env=os.environ)
    except OSError as error:
        raise UserError(f"{name}: cannot be run: {error.strerror}; install it") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = " ".join(lines[:3]) if lines else f"it exited with {done.returncode}"
        command = next(argument for argument in arguments if not argument.startswith("-"))
        raise UserError(f"`{name} {command}`: {told}")
    return done.stdout


def dvc_in(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the commands of DVC that run stages in a folder, each with its process, by the locks that DVC writes there.

    Args:
        folder: of the project.
    """
    try:
        locks = json.loads((folder / ".dvc/tmp/rwlock").read_text())
    except (OSError, ValueError):
        return
    readers = [process for processes in locks.get("read", {}).values() for process in processes]
    found = {process["pid"]: process["cmd"] for process in [*locks.get("write", {}).values(), *readers]}
    for pid, command in found.items():
        if lives(pid):
            yield re.sub(r"^[^ ]*/", "", command), pid
