"""The full set of MegaPortrait at toy size: folders as the Hub has them, with random weights, read by the full set's own loaders.

    with installed(folder):          # LATENT_STUDIO_MODELS is the folder; the base model's pictures are 128 pixels wide
        ...

The face classes see a blue square: :func:`marked` paints one on a face.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.core.weights import ROOT
from pipelines.models import annotators, controlnets, faces_photo, sdxl
from tests.toys import onnx as toy_onnx
from tests.toys import portrait as toy_portrait
from tests.toys.flux import seeded

SIZE = 128
BASE = "stable-diffusion-xl-base-1.0"
LOOK_WIDTH = 32
"""Of the image encoder's hidden states."""


def vae() -> Any:
    """SDXL's class of autoencoder, which overflows in half precision and says so."""
    with seeded(5):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIZE,
            force_upcast=True,
        )


def image_encoder(projection: int = 16) -> Any:
    with seeded(6):
        return CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=LOOK_WIDTH,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                projection_dim=projection,
            )
        )


def ip_adapter(unet: Any, hidden: int = 64, tokens: int = 4) -> dict[str, torch.Tensor]:
    """Random weights of an IP-Adapter "plus" for ``unet``, in the published layout."""
    generator, cross = torch.Generator().manual_seed(7), unet.config.cross_attention_dim

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).half()

    proj = {"latents": drawn(1, tokens, hidden), "norm_out.weight": drawn(cross), "norm_out.bias": drawn(cross)}
    for name, size in (("proj_in", (hidden, LOOK_WIDTH)), ("proj_out", (cross, hidden))):
        proj |= {f"{name}.weight": drawn(*size), f"{name}.bias": drawn(size[0])}
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            proj |= {f"layers.{layer}.{norm}.{part}": drawn(hidden) for part in ("weight", "bias")}
        sizes = {"0.to_q": 1, "0.to_kv": 2, "0.to_out": 1, "1.1": 4}
        proj |= {f"layers.{layer}.{name}.weight": drawn(times * hidden, hidden) for name, times in sizes.items()}
        proj[f"layers.{layer}.1.3.weight"] = drawn(hidden, 4 * hidden)
    return _with_attentions(unet, proj, drawn)


def plain_ip_adapter(unet: Any, width: int) -> dict[str, torch.Tensor]:
    """Random weights of an IP-Adapter without a resampler, which reads one feature of ``width`` numbers, in the published layout."""
    generator, cross = torch.Generator().manual_seed(8), unet.config.cross_attention_dim

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).half()

    proj = {"proj.weight": drawn(4 * cross, width), "proj.bias": drawn(4 * cross)}
    proj |= {"norm.weight": torch.ones(cross).half(), "norm.bias": torch.zeros(cross).half()}
    return _with_attentions(unet, proj, drawn)


def _with_attentions(
    unet: Any, proj: dict[str, torch.Tensor], drawn: Callable[..., torch.Tensor]
) -> dict[str, torch.Tensor]:
    cross, made = unet.config.cross_attention_dim, {f"image_proj.{name}": value for name, value in proj.items()}
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for place, name in enumerate(crossing):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        made |= {f"ip_adapter.{2 * place + 1}.{part}.weight": drawn(width, cross) for part in ("to_k_ip", "to_v_ip")}
    return made


def write_anyline(file: Path) -> None:
    """Random weights of Anyline's network, whose size is the published one."""
    with seeded(8), annotators._package():
        from controlnet_aux.teed.ted import TED

        file.parent.mkdir(parents=True)
        torch.save(TED().state_dict(), file)


def write_hub(folder: Path) -> None:
    """Everything that the full set would fetch."""
    base, mini = folder / BASE, ROOT / "assets" / "mini_sdxl"
    toy_portrait.unet().half().save_pretrained(base / "unet", variant="fp16")
    vae().half().save_pretrained(base / "vae", variant="fp16")
    for spec in sdxl.FIRST["mini"].parts[2:4]:
        spec.load(spec).half().save_pretrained(base / spec.key.rsplit("/", 1)[1], variant="fp16")
    for part in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(mini / part, base / part)
    controls = (*controlnets.CONTROLS["full"].values(), controlnets.LINES["anyline"])
    for seed, control in enumerate(controls, 1):
        variant = "fp16" if ".fp16." in control.spec.files[1] else None
        toy_portrait.controlnet(seed).half().save_pretrained(
            folder / control.spec.source.split("/")[1], variant=variant
        )
    write_anyline(folder / "MistoLine" / annotators.ANYLINE.files[0])
    for spec, write in ((faces_photo.YUNET, toy_onnx.write_detector), (faces_photo.SFACE, toy_onnx.write_recogniser)):
        (folder / Path(spec.source).name).mkdir()
        write(folder / Path(spec.source).name / spec.files[0])
    adapter = folder / "IP-Adapter" / controlnets.IP_ADAPTER.files[0]
    adapter.parent.mkdir(parents=True)
    save_file(ip_adapter(toy_portrait.unet()), adapter)
    image_encoder().save_pretrained(folder / "IP-Adapter" / "models" / "image_encoder")


def marked(picture: numpy.ndarray) -> numpy.ndarray:
    """A square picture with the toy detector's blue square in its middle, on its grid."""
    side = picture.shape[0]
    assert picture.shape[:2] == (side, side) and side % 40 == 0
    cell = side * toy_onnx.CELL // 640
    first = side // cell // 2 * cell
    picture = picture.copy()
    picture[first : first + cell, first : first + cell] = (0, 0, 255)
    return picture


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Inside the block the full set is the toy in ``folder``, which is written when it is empty."""
    with toy_portrait.installed(), pytest.MonkeyPatch.context() as patch:
        if not any(folder.iterdir()):
            write_hub(folder)
        full = sdxl.FIRST["full"]
        patch.setenv("LATENT_STUDIO_MODELS", str(folder))
        # The small model's tokenizers are no files of CLIP's time; the weights are, and say their variant.
        weights = {spec: tuple(name for name in spec.files if ".fp16." in name) for spec in full.parts}
        parts = tuple(replace(spec, files=files) for spec, files in weights.items())
        patch.setitem(sdxl.FIRST, "full", replace(full, size=SIZE, parts=parts))
        yield
