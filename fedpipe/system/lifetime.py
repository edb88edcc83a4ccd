"""When a process ends: with DVC if DVC started it, and in order if it is told to."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

DVC = "DVC_STAGE"  # DVC tells a stage's process its name by this variable
SHELLS = {"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"}
LOOK = 0.5  # seconds from one look at the ancestors to the next
GRACE = 10.0  # seconds that a process which is told to end has to put its things in order


def end_in_order() -> None:
    """Let SIGTERM and Ctrl-C end this process so that what it has begun is put in order; see `end_with_dvc`.

    To be called in the main thread.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with_dvc() -> None:
    """End this process when the DVC that started it ends, however it does (Linux).

    Otherwise a stage would train on after its `dvc` was killed, and overwrite the results of the next run.
    """
    if DVC in os.environ and Path("/proc/self/stat").exists():
        threading.Thread(target=_watch, args=(dict(_started_by()),), daemon=True).start()


def dvcs_record() -> Path | None:
    """Return the file that DVC writes again when it records what this process made; None if DVC did not start it."""
    return Path("dvc.lock") if DVC in os.environ else None


def began(pid: int) -> str:
    """Return when a process began, by which it differs from a later one of its number (Linux).

    It is "" if the process has ended, and where the system does not tell.
    """
    fields = _stat(pid)
    return "" if not fields or fields[0] == "Z" else fields[19]


def lives(pid: int, since: str = "") -> bool:
    """Tell whether a process of this number lives: the one that began then, if that is given."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return not since or began(pid) == since


def _watch(ancestors: dict[int, str]) -> None:
    """Wait until one of these processes is not that which began then, and end this one."""
    while all(began(pid) == then for pid, then in ancestors.items()):
        time.sleep(LOOK)
    print("dvc has ended, and so does this stage", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _started_by() -> Iterator[tuple[int, str]]:
    """Yield the parent, and its own parent if it is a shell that runs a command for it, each with when it began."""
    pid = os.getppid()
    while True:
        yield pid, began(pid)
        command = _read(pid, "cmdline").split("\0")
        if Path(command[0]).name not in SHELLS or "-c" not in command:
            return
        pid = int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third one, the state, on; none if there is no such process."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _terminate(signum: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    sys.exit(128 + signal.SIGTERM)
