"""A few-step LoRA is melted into its UNet: the weights change by what it says, and nothing of it is left beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.models import sdxl_parts
from tests.hub import make


def test_a_lora_is_melted_into_the_weights(tmp_path: Path):
    make.lcm_lora(tmp_path)
    plain, melted = make.unet(), make.unet()
    sdxl_parts.melt(melted, tmp_path)
    before, after = plain.state_dict(), melted.state_dict()
    assert before.keys() == after.keys(), "no adapter is left"
    lora = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    names = {key.split(".")[0] for key in lora}
    wanted = {
        f"{name}.weight": "lora_unet_" + name.replace(".", "_")
        for name, _ in plain.named_modules()
        if "lora_unet_" + name.replace(".", "_") in names
    }
    assert len(wanted) == len(names) > 4
    for name, value in before.items():
        change = torch.zeros_like(value)
        if name in wanted:
            down, up, alpha = (
                lora[f"{wanted[name]}.{part}"].float() for part in ("lora_down.weight", "lora_up.weight", "alpha")
            )
            change = alpha / 2 * up @ down
        torch.testing.assert_close(after[name], value + change, atol=1e-5, rtol=1e-4)
