"""A large model that stays in RAM and visits the device layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers.models.modeling_utils import ModelMixin


class Offloaded:
    """A transformer too large for the GPU: it stays in RAM, and its layers visit the GPU one by one.

    Not a module, so the registry leaves it where it is; :meth:`on` switches the visits on.
    """

    def __init__(self, transformer: ModelMixin) -> None:
        self.transformer = transformer
        self._device: torch.device | None = None

    def on(self, device: torch.device) -> ModelMixin:
        """The transformer, computing on ``device``."""
        if self._device != device and device.type != "cpu":
            self.visit(device)
        return self.transformer

    def visit(self, device: torch.device) -> None:
        """From now on the layers visit ``device``, each block as it is called."""
        import torch

        self.transformer.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
        )
        self._device = device
