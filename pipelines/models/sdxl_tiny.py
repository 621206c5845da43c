"""Sizes and builders of ``mini-sdxl``: the real SDXL classes, small enough for a laptop's CPU.

Everything here is a configuration of a diffusers or transformers class; nothing is a class of our own.
Pictures are 128 x 128, the VAE reduces by 4 to a latent of 4 x 32 x 32, and the UNet has SDXL's pattern
(a plain block, then blocks with cross attention; pooled text and size conditioning added to the time).
"""

from __future__ import annotations

from typing import Any

import pipelines.core.libraries  # noqa: F401

from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SIZE = 128
LATENT = 32
TOKENS = 40  # tokens a prompt is padded to
WIDTHS = (64, 128)  # of the two text encoders; the UNet reads both side by side
POOLED = 128
TIME_IDS = 6
TIME_ID_WIDTH = 16

# SDXL's own betas. A sampler may start at any level: its betas are a prefix of these.
BETA_START, BETA_END, BETA_STEPS = 0.00085, 0.012, 1000
# SDXL ends at an SNR of 0.0047 on 128 x 128 cells; 32 x 32 are 16 times fewer, so SDXL's own situation is met at level
# 720. Started there, skies come out as walls: the noise says "grey on average" and is believed. 960 is as far down as
# the bars of the model card hold with a margin (figures there, under Tried).
SCHEDULE_STEPS = 960


def cut_schedule(steps: int) -> dict[str, Any]:
    """Scheduler settings for the first ``steps`` of SDXL's 1,000 training steps (a prefix of the same betas)."""
    low, high = BETA_START**0.5, BETA_END**0.5
    end = (low + (high - low) * (steps - 1) / (BETA_STEPS - 1)) ** 2
    return {"num_train_timesteps": steps, "beta_schedule": "scaled_linear", "beta_start": BETA_START, "beta_end": end}


def sampler(steps: int | None = None) -> dict[str, Any]:
    """Settings of the DDIM sampler: velocity prediction, deterministic, starting at the last trained step."""
    return {
        **cut_schedule(steps or SCHEDULE_STEPS),
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
    }


def vae():
    """AutoencoderTiny, 0.4 M parameters, factor 4, four channels.

    Without normalisation layers it may be trained on crops, and it learns several times faster on a CPU than an
    AutoencoderKL of the same cost did (model card).
    """
    width = (32, 32, 32)
    return AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=(1, 3, 3),
        num_decoder_blocks=(3, 3, 1),
        upsampling_scaling_factor=2,
    )


def unet():
    """UNet2DConditionModel in SDXL's pattern, 11 M parameters; attention at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128, 192),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1, 1),
        attention_head_dim=(1, 2, 4, 6),  # as in SDXL's files, this field holds the number of heads
        use_linear_projection=True,
        cross_attention_dim=sum(WIDTHS),
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED + TIME_IDS * TIME_ID_WIDTH,
    )


def text_encoders(vocabulary: int, bos: int, eos: int, pad: int):
    """SDXL's pair of text encoders at toy width: CLIPTextModel and CLIPTextModelWithProjection."""

    def config(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=POOLED,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
            hidden_act="quick_gelu",
        )

    return CLIPTextModel(config(WIDTHS[0])), CLIPTextModelWithProjection(config(WIDTHS[1]))
