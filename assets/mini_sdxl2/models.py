"""Sizes and builders of the second generation: an autoencoder of factor 16 and a UNet on 16 x 16 latents.

Everything here is a configuration of a diffusers class. Pictures are 256 x 256; a latent is 16 x 16 x 16, so that the
UNet can attend at every level, and the decoder, not the UNet, paints what is finer than a cell.
"""

from __future__ import annotations

from diffusers import AutoencoderDC, UNet2DConditionModel
from diffusers.models.autoencoders.autoencoder_dc import ResBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from pipelines.models.sdxl_tiny import POOLED, TIME_ID_WIDTH, TIME_IDS, WIDTHS

SIZE = 256
CELLS = 16
CHANNELS = 16
FACTOR = SIZE // CELLS


def autoencoder():
    """AutoencoderDC (DC-AE, arXiv 2410.10733) of plain residual blocks, 4.0 M parameters, nothing at full resolution.

    Its residual blocks begin as identities, which makes it learn several times faster (figures in TRIED.md).
    It has no normalisation over space, so it may be trained on crops. Without the shortcuts past its innermost
    convolutions, mean and spread of the latents can be folded into those (:func:`assets.mini_sdxl2.train.centre`).
    """
    widths = (32, 32, 64, 128, 128)
    model = AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(0, 1, 1, 1, 2),
        decoder_layers_per_block=(0, 1, 2, 2, 4),
        encoder_qkv_multiscales=((),) * 5,
        decoder_qkv_multiscales=((),) * 5,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
    )
    for block in model.modules():
        if isinstance(block, ResBlock):
            nn.init.zeros_(block.norm.weight)
    # What StableDiffusionXLPipeline asks of an AutoencoderKL's configuration.
    model.register_to_config(block_out_channels=widths, force_upcast=False)
    return model


def unet():
    """UNet2DConditionModel in SDXL's pattern, 14 M parameters, attention at both of its levels (16 x 16 and 8 x 8).

    As the autoencoder's, its residual branches begin at zero.
    """
    model = UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 224),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(4, 7),  # as in SDXL's files, this field holds the number of heads
        use_linear_projection=True,
        cross_attention_dim=sum(WIDTHS),
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=POOLED + TIME_IDS * TIME_ID_WIDTH,
    )
    for block in model.modules():
        if isinstance(block, ResnetBlock2D):
            nn.init.zeros_(block.conv2.weight)
        elif isinstance(block, Transformer2DModel):
            nn.init.zeros_(block.proj_out.weight)
    nn.init.zeros_(model.conv_out.weight)
    return model
