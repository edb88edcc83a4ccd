"""What a result was made on.

Float results have the same bits on machines of one CPU type with one version of torch. It is written down in a file of
its own, which git keeps and no stage depends on, so that equal results of other machines differ in nothing else.
"""

import hashlib
import platform
import re
from pathlib import Path

import torch

from fedpipe.system.errors import UserError
from fedpipe.system.files import read_json, write_json

FILE = Path("reports/provenance.json")


def write_provenance(stage: str, device: torch.device) -> None:
    """Write down what a stage's results were made on, beside what is known of other stages.

    Args:
        stage: that trained.
        device: that it trained on.
    """
    try:
        known = read_json(FILE)
    except UserError:  # it is not there, or not what was written
        known = {}
    known = known if isinstance(known, dict) else {}
    write_json(FILE, dict(sorted({**known, stage: provenance(device)}.items())))


def provenance(device: torch.device) -> dict[str, str]:
    """Return the CPU type, the version of torch, and the device that trained, as provenance.json names them.

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
