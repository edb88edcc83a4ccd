"""What a result was made on.

Float results have the same bits on machines of one CPU type with one version of torch.
"""

import hashlib
import platform
import re
from pathlib import Path

import torch


def provenance(device: torch.device) -> dict[str, str]:
    """Return the CPU type, the version of torch, and the device that trained, as metrics.json names them.

    Returns:
        The values of ``cpu``, ``torch`` and ``device``.
    """
    return {
        "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def code() -> str:
    """Return the SHA-256 of the library's source files, in hexadecimal digits."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _cpu() -> str:
    """Return the name of the CPU with family and model: CPUs of one name are sold with different instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:  # not x86
        return platform.machine()
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
