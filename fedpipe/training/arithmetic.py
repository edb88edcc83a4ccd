"""The device and the precision of training: the part of `compute` that results depend on."""

from functools import lru_cache
from typing import Literal

import torch
from pydantic import ConfigDict, Field

from fedpipe.config.section import Section
from fedpipe.system.errors import ParameterError


class Arithmetic(Section):
    """Choose device and precision. Another engine gives the same bits; another device or precision does not."""

    model_config = ConfigDict(extra="ignore")  # it is read from the block `compute`, which has more parameters

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="Device that networks are trained on; auto is cuda where there is one, else cpu. "
        "Results depend on it.",
    )  # fmt: skip
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of matrix products and convolutions. bfloat16 is faster where the "
        "CPU has avx512_bf16 or amx. Results depend on it.",
    )  # fmt: skip

    def torch_device(self) -> torch.device:
        """Return the device; with auto, CUDA if this machine has it, else the CPU.

        Raises:
            ParameterError: this machine has no such device.
        """
        return _device(self.device)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context of a forward pass; with bfloat16, parameters and sums stay float32.

        References:
            Micikevicius et al. 2018, arXiv:1710.03740.
        """
        # The cache of converted parameters serves those used twice in a pass; ours are used once.
        enabled = self.precision == "bfloat16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


@lru_cache  # every client asks
def _device(name: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise ParameterError("compute.device", f"torch finds no {name} here; use auto or cpu")
    return torch.device(name)


PLAIN = Arithmetic(device="cpu")  # float32 on the CPU
