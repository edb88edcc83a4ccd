"""On what device and in what precision networks are trained: the part of `compute` that results depend on."""

from functools import lru_cache
from typing import Literal

import torch
from pydantic import ConfigDict

from fedpipe.errors import UserError
from fedpipe.params import Section


class Arithmetic(Section):
    """Device and precision. Other engines or workers give the same bits, another device or precision does not."""

    model_config = ConfigDict(extra="ignore")  # read from the block `compute`, which says more

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"

    def torch_device(self) -> torch.device:
        """With auto: CUDA if this machine has it, else the CPU.

        Raises:
            UserError: this machine has no such device.
        """
        return _device(self.device)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass. In bfloat16, products and convolutions are; parameters and sums stay float32.

        References:
            Micikevicius et al. 2018, arXiv:1710.03740.
        """
        # The cache of converted parameters serves those used twice in a pass; ours are used once.
        enabled = self.precision == "bfloat16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


@lru_cache  # asked for by every client
def _device(name: str) -> torch.device:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise UserError(f"params.yaml: compute.device: torch finds no {name} here; use auto or cpu")
    return torch.device(name)


PLAIN = Arithmetic(device="cpu")  # float32 on the CPU
