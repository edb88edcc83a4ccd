"""On what a result was made: float results have the same bits on machines of one CPU type with one torch."""

import platform
import re
from pathlib import Path

import torch


def provenance(device: torch.device) -> dict[str, str]:
    """The CPU type, torch's version and the device trained on, as the metrics of each training carry them."""
    return {
        "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _cpu() -> str:
    """Vendor's name with family and model: one name is sold with different instruction sets."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:  # not x86
        return platform.machine()
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
