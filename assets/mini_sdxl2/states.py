"""The state of a training run, small enough to be committed, and back: a new machine goes on where the last one stopped.

The shipped weights are the average, in float16. What training needs beyond them is the model as it was, of which only
the difference to the average is kept: one byte a number, with a scale for each row. The optimiser's moments are not
kept; they are back after some tens of steps, for which the learning rate rises anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MOST = 9_000_000  # bytes of one file


def quantised(difference: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor as int8 and a scale for each of its rows (float16; one scale for a vector)."""
    rows = difference.flatten(1) if difference.ndim > 1 else difference.flatten().unsqueeze(0)
    scale = (rows.abs().amax(1).clamp_min(1e-7) / 127).half()
    scale = scale.clamp_min(6e-8)  # the smallest step of float16
    return (rows / scale.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8), scale


def restored(codes: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    return (codes.float() * scale.float().unsqueeze(1)).view(shape)


def write(folder: Path, model: nn.Module, average: nn.Module, facts: dict[str, object]) -> None:
    """Write the state into ``folder``, in files below 10 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    parts: list[dict[str, Tensor]] = [{}]
    averages = average.state_dict()
    for name, value in model.state_dict().items():
        codes, scale = quantised(value.float() - averages[name].half().float())
        if sum(t.numel() * t.element_size() for t in parts[-1].values()) + codes.numel() > MOST:
            parts.append({})
        parts[-1] |= {f"{name}|codes": codes, f"{name}|scale": scale}
    for place, part in enumerate(parts):
        save_file(part, folder / f"difference-{place}.safetensors")
    (folder / "state.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def read(folder: Path, average: nn.Module) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The model's weights, from the average's (loaded from the shipped float16 files) and the state; and the facts."""
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("difference-*.safetensors")):
        stored |= load_file(path)
    weights = {
        name: value.float() + restored(stored[f"{name}|codes"], stored[f"{name}|scale"], value.shape)
        for name, value in average.state_dict().items()
    }
    return weights, json.loads((folder / "state.json").read_text())
