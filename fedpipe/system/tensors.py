"""Read and write tensors, as safetensors files, which need none of this code to be opened, and run none."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpipe.system.files import reading, replacing

HEADER = "fedpipe"  # the key of the text in the header of a file


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: str | None = None) -> None:
    """Write tensors by name as a safetensors file. Equal tensors and headers make equal bytes.

    Args:
        path: the file.
        tensors: by name.
        header: a text for the file's header. It is one text, because safetensors writes several in random order.
    """
    metadata = None if header is None else {HEADER: header}
    with replacing(path) as new:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, new, metadata)
        except SafetensorError as error:
            if refused := re.search(r"os error (\d+)", str(error)):  # such as a full disk
                raise OSError(int(refused[1]), os.strerror(int(refused[1]))) from None
            raise


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        UserError: the file is missing, or damaged.
    """
    with reading(path):
        return load_file(path)


def read_header(path: str | Path) -> str | None:
    """Return the text that `write_tensors` wrote into the header of a safetensors file, or None if it wrote none."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(HEADER)


def sha256_of_tensors(*tensors: Tensor) -> str:
    """Return the SHA-256 of tensors' values, as bytes in row-major order, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
