"""Sizes and builders of ``mini-flux``: FLUX.1-Fill's own classes, small enough for a laptop's CPU.

Everything here is a configuration of a diffusers or transformers class; nothing is a class of our own. Pictures are
192 x 128 (never square, so that no test can mistake rows for columns), the autoencoder reduces by 8 to 16 channels as FLUX's does,
so the transformer has FLUX.1-Fill's 384 input and 64 output channels: 64 of noise, 64 of condition, 256 of mask.
"""

from __future__ import annotations

from typing import Any

import pipelines.core.libraries  # noqa: F401

from diffusers import AutoencoderTiny, FluxTransformer2DModel
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from pipelines.worlds import SCENE_HEIGHT, SCENE_WIDTH

WIDTH, HEIGHT = SCENE_WIDTH, SCENE_HEIGHT
HEADS, HEAD_WIDTH = 6, 32
TEXT_WIDTH, TOKENS = 64, 8
"""Width of the prompt embedding (joint and pooled), and its length: the prompt is one constant, as in GeoRemover."""
RANK = 64  # of the adapters, as published

TARGETS = (
    "x_embedder",
    "attn.to_k",
    "attn.to_q",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)
"""Where the adapters sit: the published list (suffixes of module names)."""


def vae(width: int = 32, blocks: tuple[int, ...] = (1, 3, 3, 3)):
    """AutoencoderTiny, factor 8, 16 channels: without normalisation layers it learns from crops, and a strip of panels is
    encoded almost as its panels are."""
    return AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        upsampling_scaling_factor=2,
    )


def transformer(heads: int = HEADS, double: int = 3, single: int = 1):
    """FluxTransformer2DModel. Most blocks are double ones, because the published adapters reach only these fully."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=384,
        out_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def scheduler() -> dict[str, Any]:
    """Settings of FLUX's own FlowMatchEulerDiscreteScheduler."""
    return {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def depth(hidden: int = 64, layers: int = 6, heads: int = 4):
    """DepthAnythingForDepthEstimation with a small Dinov2 inside; its pictures are 168 x 126 (patches of 14)."""
    backbone = Dinov2Config(  # type: ignore[call-arg]  # it takes out_indices, which its stub calls _out_indices
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        mlp_ratio=2,
        image_size=126,
        patch_size=14,
        out_indices=[layers // 6, layers // 2, 2 * layers // 3, layers],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=hidden,
            neck_hidden_sizes=[16, 32, 48, 64],
            fusion_hidden_size=32,
            head_hidden_size=16,
            patch_size=14,
        )
    )
