"""Files of ours that hold a record: its byte form, and before it the SHA-256 of this, so that no damage goes unseen."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, TypeVar

from fedpipe.system.errors import naming
from fedpipe.system.records import Record

DIGEST = hashlib.sha256().digest_size  # bytes

R = TypeVar("R", bound=Record)


class Damaged(ValueError):
    """Bytes are not those that were written."""


def save(record: Record, path: Path, *, lasting: bool = False) -> None:
    """Write a file of the record, whole or not at all.

    Args:
        record: what is saved.
        path: of the file. Its folder must be there, and nobody else may write the file at the same time.
        lasting: return only when the file is on the disk, and so outlives a loss of power.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    new, digest = path.with_suffix(".new"), hashlib.sha256()
    try:
        with naming(path), new.open("wb") as file:
            file.write(bytes(DIGEST))
            for piece in record.frames():
                digest.update(piece)
                file.write(piece)
            file.seek(0)
            file.write(digest.digest())
            if lasting:
                to_disk(file)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)  # a full disk has better use for the space
        raise


def load(kind: type[R], path: Path) -> R:
    """Return the record of this kind that `save` wrote to a file.

    Raises:
        OSError: the file cannot be read.
        Damaged: it holds something else.
    """
    return kind.decode(checked(path.read_bytes()))


def with_digest(content: bytes) -> bytes:
    """Return bytes with their SHA-256 before them."""
    return hashlib.sha256(content).digest() + content


def checked(data: bytes) -> bytes:
    """Return what comes after the SHA-256 that must be its own.

    Raises:
        Damaged: it is not.
    """
    digest, content = data[:DIGEST], data[DIGEST:]
    if not content or hashlib.sha256(content).digest() != digest:
        raise Damaged("its bytes are not those that were written")
    return content


def to_disk(file: BinaryIO) -> None:
    """Have what was written to a file reach the disk, so that it outlives a loss of power."""
    file.flush()
    os.fsync(file.fileno())
