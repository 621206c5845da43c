"""A large model that stays in RAM and visits the device layer by layer."""

from __future__ import annotations

from typing import Any


class Offloaded:
    """A transformer too large for the GPU: it stays in RAM, and its layers visit the GPU one by one.

    Not a module, so the registry leaves it where it is; :func:`build` switches the visits on.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self._device: Any = None

    def on(self, device: Any) -> Any:
        """The transformer, computing on ``device``."""
        import torch

        if self._device != device and device.type != "cpu":
            self.transformer.enable_group_offload(
                onload_device=device,
                offload_device=torch.device("cpu"),
                offload_type="block_level",
                num_blocks_per_group=1,
            )
            self._device = device
        return self.transformer
