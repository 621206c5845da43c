"""Every repository of the full set with random weights: tiny in width, and in the layout in which it was published.

    python -m tests.hub.make FOLDER       # FOLDER/<owner>/<name>/..., under two minutes and 300 MB

File names, shards and their index, names of tensors, types of numbers, variants, tokenizer files and generation settings are those of
the repositories; so are classes, and numbers that others rely on (NPNet reads 77 tokens of 2,048, of pictures of 1,024 pixels). Widths and
depths are small. Attention at more than 1,024 places and in the autoencoders is left out: a CPU would take minutes for it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    GenerationConfig,
    T5Config,
    T5EncoderModel,
)

from pipelines.golden_noise.npnet import OFFICIAL_SDXL, NPNet
from pipelines.instant_style import picture
from pipelines.models import annotators, controlnets, faces_photo, flux, flux_tiny, sdxl
from tests.hub import tokenizers
from tests.hub.tokenizers import write_json
from tests.toys import flux as toy_flux
from tests.toys import language as toy_language
from tests.toys import onnx as toy_onnx
from tests.toys import portrait_full
from tests.toys.flux import seeded

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
CARD = "---\nlicense: other\n---\nRandom weights, for tests.\n"
TEXT_WIDTHS = (768, 1280)
"""Of SDXL's text encoders: NPNet reads both side by side."""
FLUX_TEXT = 32
GATED = (flux.FULL_SOURCE, "meta-llama/Llama-2-7b-chat-hf")
"""Repositories that ask for a token and for their licence to be accepted."""


def make(folder: Path, *sources: str) -> None:
    """The repositories ``sources``, by default all, each under its own name."""
    for source in sources or REPOSITORIES:
        write, place = REPOSITORIES[source], folder / source
        place.mkdir(parents=True)
        (place / "README.md").write_text(CARD)
        (place / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        write(place)


# --------------------------------------------------------------------------------- pictures: SDXL, NPNet, portraits


def unet() -> Any:
    """SDXL's UNet: a block without attention, then with; pooled text and six numbers added to the time."""
    with seeded(1):
        return UNet2DConditionModel(
            sample_size=128,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            block_out_channels=(4, 8, 16),
            layers_per_block=2,
            transformer_layers_per_block=(1, 1, 1),
            attention_head_dim=(1, 1, 2),
            use_linear_projection=True,
            cross_attention_dim=sum(TEXT_WIDTHS),
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + 6 * 8,
        )


def autoencoder(latents: int, size: int, upcast: bool, **more: Any) -> Any:
    """``AutoencoderKL`` with factor 8."""
    with seeded(2):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 8, 8),
            latent_channels=latents,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=size,
            force_upcast=upcast,
            mid_block_add_attention=False,
            **more,
        )


def clip_encoder(width: int, vocabulary: int, projection: bool, seed: int) -> Any:
    """A CLIP text encoder of the time: its end token is called 2, which means "the one with the highest number"."""
    settings = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    with seeded(seed):
        return (CLIPTextModelWithProjection if projection else CLIPTextModel)(settings)


def save_clip(model: Any, folder: Path, name: str) -> None:
    """Names of the time: everything below ``text_model``, and the numbers of the places among the weights."""
    tensors = {}
    for key, value in model.state_dict().items():
        old = key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}"
        tensors[old] = value.contiguous()
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name, {"format": "pt"})
    settings = json.loads(model.config.to_json_string())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    settings |= {"architectures": [type(model).__name__], "torch_dtype": dtype, "transformers_version": "4.32.0.dev0"}
    settings.pop("dtype", None)
    write_json(folder / "config.json", settings)


def sdxl_base(folder: Path) -> None:
    words = tokenizers.clip(folder / "tokenizer")
    tokenizers.clip(folder / "tokenizer_2", pad="!")
    for number, part in enumerate(("text_encoder", "text_encoder_2")):
        model = clip_encoder(TEXT_WIDTHS[number], words, number == 1, 3 + number)
        save_clip(model.half(), folder / part, "model.fp16.safetensors")
        (folder / part / "model.safetensors").write_bytes(b"the same in 32 bits")
    unet().half().save_pretrained(folder / "unet", variant="fp16")
    autoencoder(4, 1024, True, scaling_factor=0.13025).half().save_pretrained(folder / "vae", variant="fp16")
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"the same in 32 bits")
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        interpolation_type="linear",
        use_karras_sigmas=False,
    )
    scheduler.save_pretrained(folder / "scheduler")
    single = "sd_xl_base_1.0" if folder.name.startswith("stable-diffusion") else "SSD-1B"
    (folder / f"{single}.safetensors").write_bytes(b"everything in one file")
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})


def lcm_lora(folder: Path) -> None:
    """A few-step LoRA of some of the UNet's layers, under the names of its time."""
    with seeded(31):
        tensors = {}
        for name, part in unet().named_modules():
            if name.endswith(("attn1.to_q", "attn2.to_k", "ff.net.2", "proj_in")):
                key = "lora_unet_" + name.replace(".", "_")
                tensors[f"{key}.lora_down.weight"] = torch.randn(2, part.in_features).half()
                tensors[f"{key}.lora_up.weight"] = (0.1 * torch.randn(part.out_features, 2)).half()
                tensors[f"{key}.alpha"] = torch.tensor(1.0).half()
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")


def npnet(folder: Path) -> None:
    """The authors' nested checkpoint, at its full size: 122 MB."""
    with seeded(5):
        state = NPNet(**OFFICIAL_SDXL).state_dict()
        state["embeeding.linear.weight"].normal_(std=1e-3)
    parts: dict[str, Any] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    torch.save(parts | {"alpha": torch.full((1,), 0.7), "beta": torch.full((1,), -0.35)}, folder / "sdxl.pth")
    for other in ("dreamshaper.pth", "dit.pth"):
        (folder / other).write_bytes(b"for another model")


def controlnet(seed: int, half: bool) -> Callable[[Path], None]:
    """A ControlNet that is awake: as its class begins, it adds nothing."""

    def write(folder: Path) -> None:
        with seeded(seed):
            net = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(4, 4, 4, 8))
            ends = (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out)
            for part in ends:
                torch.nn.init.normal_(part.weight, std=0.1)
        net.half().save_pretrained(folder, variant="fp16" if half else None)

    return write


def mistoline(folder: Path) -> None:
    """A ControlNet, and beside it the network that draws its lines."""
    controlnet(24, True)(folder)
    portrait_full.write_anyline(folder / annotators.ANYLINE.files[0])
    (folder / "mistoLine_rank256.safetensors").write_bytes(b"the same as a LoRA")


def ip_adapter(folder: Path) -> None:
    file = folder / controlnets.IP_ADAPTER.files[0]
    file.parent.mkdir(parents=True)
    save_file(portrait_full.ip_adapter(unet()), file)
    portrait_full.image_encoder().save_pretrained(folder / "models" / "image_encoder")
    plain = folder / picture.ADAPTER.files[0]
    plain.parent.mkdir(parents=True, exist_ok=True)
    save_file(portrait_full.plain_ip_adapter(unet(), TEXT_WIDTHS[1]), plain)
    portrait_full.image_encoder(TEXT_WIDTHS[1]).half().save_pretrained(plain.parent / "image_encoder")


# ------------------------------------------------------------------------------------------------- object removal


def flux_fill(folder: Path) -> None:
    with seeded(11):
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=384,
            out_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=FLUX_TEXT,
            pooled_projection_dim=FLUX_TEXT,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
    transformer.to(torch.bfloat16).save_pretrained(folder / "transformer", max_shard_size="150KB")
    autoencoder(
        16, 1024, True, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    ).to(torch.bfloat16).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(**flux_tiny.scheduler()).save_pretrained(folder / "scheduler")
    words = tokenizers.clip(folder / "tokenizer")
    clip = clip_encoder(FLUX_TEXT, words, False, 12)
    save_clip(clip.to(torch.bfloat16), folder / "text_encoder", "model.safetensors")
    pieces = tokenizers.t5(folder / "tokenizer_2")
    with seeded(13):
        settings = T5Config(
            vocab_size=pieces,
            d_model=FLUX_TEXT,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
        t5 = T5EncoderModel(settings)
    save_shards(t5.to(torch.bfloat16), folder / "text_encoder_2", 2)
    (folder / "flux1-fill-dev.safetensors").write_bytes(b"everything in one file")
    (folder / "ae.safetensors").write_bytes(b"the autoencoder in one file")
    write_json(folder / "model_index.json", {"_class_name": "FluxFillPipeline"})


def adapters(folder: Path) -> None:
    """Both of GeoRemover's adapters, and an earlier checkpoint beside one of them."""
    model = FluxTransformer2DModel.from_pretrained(folder.parents[1] / flux.FULL_SOURCE / "transformer")
    for stage, steps in ((1, 2400), (1, 4800), (2, 3600)):
        file = folder / f"stage{stage}" / f"checkpoint-{steps}" / flux.ADAPTER_FILE
        file.parent.mkdir(parents=True)
        save_file(toy_flux.adapter(model, steps, rank=4), file)


def depth_anything(folder: Path) -> None:
    toy_flux.depth().save_pretrained(folder)
    write_json(
        folder / "preprocessor_config.json",
        {"image_processor_type": "DPTImageProcessor", "size": {"height": 518, "width": 518}},
    )


# ------------------------------------------------------------------------------------------------ language models


def save_shards(model: Any, folder: Path, count: int) -> None:
    """``model-00001-of-0000N.safetensors`` and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if count == 1:
        return
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names, place = sorted(tensors), {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        save_file(part, folder / file, {"format": "pt"})
        place |= dict.fromkeys(part, file)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": place})


def language(
    family: str, layers: int, shards: int, words: Callable[[Path], int], **more: Any
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        size = words(folder)
        control: Mapping[str, Any] = more.get("control", {})
        model = toy_language.toy(
            family,
            torch.bfloat16,
            vocab_size=size,
            num_hidden_layers=layers,
            max_position_embeddings=4096,
            tie_word_embeddings=more.get("tied", False),
            **control,
        )
        model.generation_config = GenerationConfig(**more["generation"])
        save_shards(model, folder, shards)
        for number in range(1, shards + 1):
            (folder / f"pytorch_model-{number:05}-of-{shards:05}.bin").write_bytes(b"the same in pickles")

    return write


def qwen(layers: int) -> Callable[[Path], None]:
    return language(
        "qwen2",
        layers,
        1,
        tokenizers.qwen,
        tied=True,
        control={"bos_token_id": 256, "eos_token_id": 258, "pad_token_id": None},
        generation={"bos_token_id": 256, "pad_token_id": 256, "do_sample": True, "eos_token_id": [258, 256]},
    )


def _mistral(folder: Path) -> int:
    return tokenizers.llama(folder, tokenizers.MISTRAL_TEMPLATE)


def _llama(folder: Path) -> int:
    return tokenizers.llama(folder, tokenizers.LLAMA_TEMPLATE)


_OPENPOSE, _CANNY, _TILE = (control.spec.source for control in controlnets.CONTROLS["full"].values())
REPOSITORIES: dict[str, Callable[[Path], None]] = {
    SDXL: sdxl_base,
    sdxl.SSD.source: sdxl_base,
    **{lora.source: lcm_lora for lora in sdxl.LORAS.values()},
    "Klayand/GoldenNoiseModel": npnet,
    _OPENPOSE: controlnet(21, False),
    _CANNY: controlnet(22, True),
    _TILE: controlnet(23, False),
    annotators.MISTOLINE: mistoline,
    "h94/IP-Adapter": ip_adapter,
    faces_photo.YUNET.source: lambda folder: toy_onnx.write_detector(folder / faces_photo.YUNET.files[0]),
    faces_photo.SFACE.source: lambda folder: toy_onnx.write_recogniser(folder / faces_photo.SFACE.files[0]),
    flux.FULL_SOURCE: flux_fill,
    flux.ADAPTERS.source: adapters,
    "depth-anything/Depth-Anything-V2-Small-hf": depth_anything,
    "Qwen/Qwen2.5-1.5B-Instruct": qwen(28),
    "Qwen/Qwen2.5-0.5B-Instruct": qwen(24),
    "mistralai/Mistral-7B-Instruct-v0.1": language(
        "mistral", 32, 2, _mistral, control={"pad_token_id": None}, generation={"bos_token_id": 1, "eos_token_id": 2}
    ),
    "meta-llama/Llama-2-7b-chat-hf": language(
        "llama",
        32,
        2,
        _llama,
        control={"pad_token_id": None},
        generation={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True, "temperature": 0.6},
    ),
}
"""Source -> what writes it into its folder, those first that others are made from."""


if __name__ == "__main__":
    target, began = Path(sys.argv[1]), time.monotonic()
    shutil.rmtree(target, ignore_errors=True)
    make(target)
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{len(REPOSITORIES)} repositories, {total / 1e6:.0f} MB, {time.monotonic() - began:.0f} s")
