"""The fill model: tables written by hand, a denoising loop written by hand, adapters, the prompt's file, the full set's messages."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
import torch
from diffusers import FluxFillPipeline
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from pipelines.core import depth as depth_maps
from pipelines.core import offload
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.weights import ModelSpec, resolve
from pipelines.georemover import Settings
from pipelines.georemover.stages import Stages
from pipelines.models import flux, flux_parts, flux_tiny
from pipelines.models.flux import PARTS, FillBase
from pipelines.models.flux_parts import add_adapter, build, check_adapter, strip_ids, wearing
from tests.toys import flux as toy_flux

HEIGHT, WIDTH = 64, 128
SETTINGS = Settings(seed=7, steps_1=4, steps_2=5, guidance=30.0, keep_depth=False)


@pytest.fixture(scope="module")
def parts():
    return toy_flux.parts()


@pytest.fixture(scope="module")
def model(parts) -> Stages:
    return Stages(toy_flux.toy_base(), **parts)


@pytest.fixture(scope="module")
def scene():
    """A picture (H, W, 3), two depth maps and a mask, none of them symmetric."""
    rng = numpy.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=numpy.uint8)
    before = numpy.linspace(0, 1, HEIGHT * WIDTH, dtype=numpy.float32).reshape(HEIGHT, WIDTH)
    after = before[:, ::-1].copy()
    mask = numpy.zeros((HEIGHT, WIDTH), bool)
    mask[10:37, 21:60] = True
    return rgb, before, after, mask


def inputs_of(model: Stages, call) -> list[Tensor]:
    """What the real transformer gets in each step of ``call()``."""
    seen: list[Tensor] = []

    def note(_module, _positional, named):
        seen.append(named["hidden_states"].clone())

    handle = model.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return seen


# -------------------------------------------------------------------------------------------- tables


def test_positions_of_a_strip_against_a_table_written_by_hand():
    # two rows of tokens, three panels of two columns: (panel, row, column), columns restart, row by row over the strip
    table = [
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (1, 0, 1),
        (2, 0, 0),
        (2, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (1, 1, 0),
        (1, 1, 1),
        (2, 1, 0),
        (2, 1, 1),
    ]
    assert strip_ids(2, 6).tolist() == [list(map(float, row)) for row in table]
    ids = flux_parts.GeoRenderPipeline._prepare_latent_image_ids(1, 2, 6, "cpu", torch.bfloat16)
    assert ids.dtype == torch.bfloat16 and ids.tolist() == [list(map(float, row)) for row in table]


def test_positions_of_stage_1_are_the_stock_ones():
    table = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 1, 2)]
    assert FluxFillPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32).tolist() == [
        list(map(float, row)) for row in table
    ]


def test_packing_against_a_table_written_by_hand():
    # 2 channels of 2 x 4 latents: two tokens; a token lists channel by channel its 2 x 2 cells, row by row
    latents = torch.tensor([[[[0, 1, 2, 3], [4, 5, 6, 7]], [[10, 11, 12, 13], [14, 15, 16, 17]]]]).float()
    packed = FluxFillPipeline._pack_latents(latents, 1, 2, 2, 4)
    assert packed.tolist() == [[[0, 1, 4, 5, 10, 11, 14, 15], [2, 3, 6, 7, 12, 13, 16, 17]]]
    assert torch.equal(FluxFillPipeline._unpack_latents(packed, 16, 32, 8), latents)


def test_the_384_channels_are_noise_condition_and_the_mask_s_pixels(model: Stages, scene):
    rgb, before, after, mask = scene
    first = inputs_of(model, lambda: model.remove_from_depth(before, mask, SETTINGS))[0][0]
    assert first.shape == (HEIGHT // 16 * WIDTH // 16, 384)
    generator = torch.Generator().manual_seed(SETTINGS.seed)
    noise = torch.randn((1, 16, HEIGHT // 8, WIDTH // 8), generator=generator)
    for token in (0, 9, 19, 31):
        row, column = divmod(token, WIDTH // 16)
        for channel in (0, 5, 33, 63):
            latent, cell = divmod(channel, 4)
            down, across = divmod(cell, 2)
            assert first[token, channel] == noise[0, latent, 2 * row + down, 2 * column + across]
        for channel in (0, 3, 77, 130, 255):
            pixel, cell = divmod(channel, 4)
            down, across = divmod(cell, 2)
            inner_row, inner_column = divmod(pixel, 8)
            y, x = row * 16 + down * 8 + inner_row, column * 16 + across * 8 + inner_column
            assert first[token, 128 + channel] == float(mask[y, x]), (token, channel)
    strip = inputs_of(model, lambda: model.render(rgb, after, before, SETTINGS))[0][0]
    assert strip.shape == (3 * HEIGHT // 16 * WIDTH // 16, 384)
    assert not strip[:, 128:].any(), "stage 2 is told nothing of the mask"
    # its condition is the whole strip, picture unmasked, depth after before depth before
    panels = numpy.concatenate([rgb, depth_maps.to_colours(after), depth_maps.to_colours(before)], 1)
    with torch.no_grad():
        latents = model.vae.encode(torch.from_numpy(panels).permute(2, 0, 1)[None].float() / 127.5 - 1).latents
    torch.testing.assert_close(strip[:, 64:128], by_hand_packed(latents)[0], atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------- a loop written by hand


def by_hand_packed(planes: Tensor) -> Tensor:
    count, channels, height, width = planes.shape
    tokens = torch.empty(count, height // 2 * (width // 2), channels * 4)
    for row in range(height // 2):
        for column in range(width // 2):
            block = planes[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            tokens[:, row * (width // 2) + column] = block.reshape(count, -1)
    return tokens


def by_hand_unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    planes = torch.empty(1, tokens.shape[2] // 4, height // 8, width // 8)
    for row in range(height // 16):
        for column in range(width // 16):
            block = tokens[0, row * (width // 16) + column].view(-1, 2, 2)
            planes[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = block
    return planes


def plain_transformer(seed: int, stage: int | None):
    """The toy transformer without peft: its adapter multiplied out, and added to the weights, here."""
    made = toy_flux.transformer(seed)
    if stage is None:
        return made
    weights = toy_flux.adapter(toy_flux.transformer(seed), seed + stage)
    named = dict(made.named_modules())
    for key in weights:
        if key.endswith("lora_A.weight"):
            name = key.removeprefix("transformer.").removesuffix(".lora_A.weight")
            change = weights[key.replace("lora_A", "lora_B")] @ weights[key]
            named[name].weight.data += change
    return made


@torch.no_grad()
def reference(parts, stage: int | None, picture, mask, ids, steps: int, seed: int, guidance: float) -> numpy.ndarray:
    """FLUX.1-Fill as its papers describe it, nothing of diffusers' pipeline: (H, W, 3) uint8."""
    transformer, vae, prompt = plain_transformer(0, stage), parts["vae"], parts["prompt"]
    height, width = picture.shape[:2]
    config = vae.config
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    hole = torch.from_numpy(mask)[None, None].float()
    latents = (vae.encode(image * (1 - hole)).latents - config.shift_factor) * config.scaling_factor
    folded = torch.empty(1, 64, height // 8, width // 8)
    for y in range(8):
        for x in range(8):
            folded[:, y * 8 + x] = hole[:, 0, y::8, x::8]
    condition = torch.cat((by_hand_packed(latents), by_hand_packed(folded)), 2)
    generator = torch.Generator().manual_seed(seed)
    moving = by_hand_packed(torch.randn((1, 16, height // 8, width // 8), generator=generator))
    tokens = moving.shape[1]
    shift = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
    levels = [1 - i * (1 - 1 / steps) / max(steps - 1, 1) for i in range(steps)]
    levels = [math.exp(shift) / (math.exp(shift) + (1 / level - 1)) for level in levels] + [0.0]
    for level, following in itertools.pairwise(levels):
        velocity = transformer(
            hidden_states=torch.cat((moving, condition), 2),
            timestep=torch.tensor([level]),
            guidance=torch.tensor([guidance]),
            pooled_projections=prompt["pooled_prompt_embeds"],
            encoder_hidden_states=prompt["prompt_embeds"],
            txt_ids=torch.zeros(prompt["prompt_embeds"].shape[1], 3),
            img_ids=torch.tensor(ids).float(),
        ).sample
        moving = moving + (following - level) * velocity
    drawn = vae.decode(by_hand_unpacked(moving, height, width) / config.scaling_factor + config.shift_factor).sample
    return ((drawn[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def close(first: numpy.ndarray, second: numpy.ndarray) -> bool:
    """Equal but for the order of additions: at most one level in few pixels."""
    off = numpy.abs(first.astype(int) - second)
    return bool(off.max() <= 1 and (off > 0).mean() < 0.01)


def test_stage_1_equals_the_loop_written_by_hand(parts, model: Stages, scene):
    _rgb, before, _after, mask = scene
    ids = [(0, row, column) for row in range(HEIGHT // 16) for column in range(WIDTH // 16)]
    wanted = reference(parts, 1, depth_maps.to_colours(before), mask, ids, 4, 7, 30.0)
    after, off_palette = model.remove_from_depth(before, mask, SETTINGS)
    depth, distance = depth_maps.from_colours(wanted)
    # A level of one colour may be the border between two palette entries.
    assert numpy.mean(numpy.abs(after - depth) > 2 / 255) < 0.01
    assert off_palette == pytest.approx(distance.mean(), abs=0.05)
    with wearing(model.transformer, "geo1"):
        colours = depth_maps.to_colours(before)
        painted = model._paint(model._fill, colours, mask, 7, 4, 30.0, lambda *_: None)
    assert close(painted, wanted)


def test_stage_2_equals_the_loop_written_by_hand(parts, model: Stages, scene):
    rgb, before, after, _mask = scene
    strip = numpy.concatenate([rgb, depth_maps.to_colours(after), depth_maps.to_colours(before)], 1)
    ids = [(panel, row, column) for row in range(HEIGHT // 16) for panel in range(3) for column in range(WIDTH // 16)]
    wanted = reference(parts, 2, strip, numpy.zeros(strip.shape[:2]), ids, 5, 7, 30.0)
    rendered = model.render(rgb, after, before, SETTINGS)
    assert rendered.strip.shape == (HEIGHT, 3 * WIDTH, 3)
    assert close(rendered.strip, wanted)
    # the strip is decoded whole, and the result is its left third
    assert numpy.array_equal(rendered.result, rendered.strip[:, :WIDTH])

    # one step goes all the way from the noise
    once = dataclasses.replace(SETTINGS, steps_2=1)
    wanted = reference(parts, 2, strip, numpy.zeros(strip.shape[:2]), ids, 1, 7, 30.0)
    assert close(model.render(rgb, after, before, once).strip, wanted)

    stock = [(0, row, column) for row in range(HEIGHT // 16) for column in range(3 * WIDTH // 16)]
    assert not close(rendered.strip, reference(parts, 2, strip, numpy.zeros(strip.shape[:2]), stock, 5, 7, 30.0))


def test_filling_alone_is_the_base_model(parts, model: Stages, scene):
    rgb, _before, _after, mask = scene
    ids = [(0, row, column) for row in range(HEIGHT // 16) for column in range(WIDTH // 16)]
    assert close(model.fill_only(rgb, mask, SETTINGS), reference(parts, None, rgb, mask, ids, 5, 7, 30.0))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(model: Stages, scene):
    rgb, before, after, _mask = scene
    first, second = (model.render(rgb, after, before, SETTINGS).strip for _ in range(2))
    assert numpy.array_equal(first, second)
    other = model.render(rgb, after, before, dataclasses.replace(SETTINGS, seed=8)).strip
    assert not numpy.array_equal(first, other)


# ------------------------------------------------------------------------------------------ adapters


def forward(transformer, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    prompt = toy_flux.prompt()
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 6, 384, generator=generator),
            timestep=torch.tensor([0.4]),
            guidance=torch.tensor([30.0]),
            pooled_projections=prompt["pooled_prompt_embeds"],
            encoder_hidden_states=prompt["prompt_embeds"],
            txt_ids=torch.zeros(flux_tiny.TOKENS, 3),
            img_ids=torch.zeros(6, 3),
        ).sample


def test_without_an_adapter_the_model_is_the_base_exactly(parts):
    transformer = parts["transformer"]
    base = forward(toy_flux.transformer())
    assert torch.equal(forward(transformer), base)
    with wearing(transformer, None):
        assert torch.equal(forward(transformer), base)


@pytest.mark.parametrize("merge", [True, False])
def test_the_adapters_differ_and_leave_no_trace(parts, merge: bool):
    transformer = parts["transformer"]
    before, base = fingerprint(transformer), forward(transformer)
    tensors = [id(p) for p in transformer.parameters()]
    worn = {}
    for name in flux.STAGES:
        with wearing(transformer, name, merge=merge):
            worn[name] = forward(transformer)
    assert (worn["geo1"] - worn["geo2"]).abs().max() > 0.01
    assert all((made - base).abs().max() > 0.01 for made in worn.values())
    assert torch.equal(forward(transformer), base)
    assert fingerprint(transformer) == before and [id(p) for p in transformer.parameters()] == tensors


def test_merged_and_switched_on_are_the_same_at_every_strength(parts):
    transformer = parts["transformer"]
    for scale in (0.0, 0.4, 1.5):
        made = []
        for merge in (True, False):
            with wearing(transformer, "geo2", scale, merge):
                made.append(forward(transformer))
        torch.testing.assert_close(*made, atol=1e-5, rtol=1e-5)
        if scale == 0:
            torch.testing.assert_close(made[0], forward(transformer), atol=1e-6, rtol=1e-6)
    with wearing(transformer, "geo2", 1.0, merge=False):
        whole = forward(transformer)
    with wearing(transformer, "geo2", merge=True):
        torch.testing.assert_close(forward(transformer), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_an_error_inside_leaves_no_trace_either(parts, merge: bool):
    before = fingerprint(parts["transformer"])
    with pytest.raises(KeyError), wearing(parts["transformer"], "geo1", 0.7, merge):
        raise KeyError
    assert fingerprint(parts["transformer"]) == before


def test_an_unknown_adapter_is_refused(parts):
    with pytest.raises(ValueError, match="no adapter 'geo3'"), wearing(parts["transformer"], "geo3"):
        pass


def test_the_published_key_layout_made_with_peft_loads(tmp_path: Path):
    theirs = toy_flux.transformer()
    with toy_flux.seeded(5):
        theirs.add_adapter(
            LoraConfig(r=8, lora_alpha=8, target_modules=list(flux_tiny.TARGETS), init_lora_weights=False)
        )
    FluxFillPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(theirs))
    weights = load_file(tmp_path / flux.ADAPTER_FILE)
    # x_embedder; 12 modules in the double block; to_q, to_k, to_v in the single one: a pair of matrices each
    assert len(weights) == 2 * (1 + 12 + 3)
    assert weights["transformer.x_embedder.lora_A.weight"].shape == (8, 384)
    assert set(weights) == set(toy_flux.adapter(toy_flux.transformer(), 1))
    ours = toy_flux.transformer()
    add_adapter(ours, weights, "geo1")
    assert torch.equal(forward(ours), forward(toy_flux.transformer()))
    with wearing(ours, "geo1"):
        torch.testing.assert_close(forward(ours), forward(theirs.eval()), atol=1e-5, rtol=1e-5)
    assert ours.x_embedder.in_features == 384 and ours.config.in_channels == 384


def adapter_with(first: tuple[int, ...], second: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        "transformer.x_embedder.lora_A.weight": torch.zeros(first),
        "transformer.x_embedder.lora_B.weight": torch.zeros(second),
    }


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({}, "no transformer.x_embedder"),
        ({"unet.lora_A.weight": torch.zeros(4, 4)}, "no transformer.x_embedder"),
        (adapter_with((4, 64), (64, 4)), "from 64 to 64"),
        (adapter_with((4, 384), (3072, 4)), "from 384 to 3072"),
        (adapter_with((4, 384), (64, 8)), "choose another file"),
    ],
)
def test_a_file_that_is_no_such_adapter_is_refused_before_loading(weights, says):
    with pytest.raises(ValueError, match=r"This file is not a GeoRemover LoRA \(x_embedder 384 expected\)") as caught:
        check_adapter(weights, 384, 64)
    assert says in str(caught.value) and str(caught.value).count(". ") == 0
    fresh = toy_flux.transformer()
    with pytest.raises(ValueError, match="not a GeoRemover LoRA"):
        add_adapter(fresh, weights, "geo1")
    assert not hasattr(fresh, "peft_config")
    check_adapter(adapter_with((4, 384), (64, 4)), 384, 64)


# ----------------------------------------------------------------------------------- files and prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, parts) -> Path:
    """The toy in the layout of the shipped weights."""
    root = tmp_path_factory.mktemp("flux")
    toy_flux.transformer().save_pretrained(root / "transformer")
    for name in ("vae", "scheduler", "depth"):
        parts[name].save_pretrained(root / name)
    flux_parts.write_prompt(root / "prompt.safetensors", parts["prompt"])
    for stage in (1, 2):
        (root / f"stage{stage}").mkdir()
        weights = toy_flux.adapter(toy_flux.transformer(), stage)
        save_file(weights, root / f"stage{stage}" / flux.ADAPTER_FILE)
    return root


def test_saved_and_read_again_it_paints_the_same(folder: Path, model: Stages, scene):
    rgb, before, after, mask = scene
    specs = tuple(
        dataclasses.replace(spec, source=str(folder), sha256={}, key=f"again/{part}")
        for spec, part in zip(flux.MINI.parts, PARTS, strict=False)
    )
    with Registry("cpu").lease(*specs) as leased:
        again = Stages(toy_flux.toy_base(), **flux.by_part(leased))
        # Weights that were read lie elsewhere in memory, where vector units add in another order.
        assert close(again.render(rgb, after, before, SETTINGS).strip, model.render(rgb, after, before, SETTINGS).strip)
        assert close(again.fill_only(rgb, mask, SETTINGS), model.fill_only(rgb, mask, SETTINGS))
        assert numpy.allclose(again.raw_depth(rgb), model.raw_depth(rgb))


def tiny_text_encoders():
    """CLIP and T5 with word-level vocabularies, at the width of the toy."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    clip_tokens = CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    pieces += [(word, -1.0) for word in ("▁A", "▁beautiful", "▁scene", *letters)]
    t5_tokens = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    width = flux_tiny.TEXT_WIDTH
    with toy_flux.seeded(0):
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=width,
                intermediate_size=width,
                num_hidden_layers=1,
                num_attention_heads=2,
                projection_dim=width,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokens),
                d_model=width,
                d_kv=8,
                d_ff=width,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
    return clip.eval(), clip_tokens, t5.eval(), t5_tokens


def test_the_prompt_from_a_file_paints_what_the_text_encoders_paint(tmp_path: Path, parts):
    clip, clip_tokens, t5, t5_tokens = tiny_text_encoders()
    path = tmp_path / "kept" / "prompt.safetensors"
    flux_parts.write_prompt(path, flux_parts.encode_prompt(clip, clip_tokens, t5, t5_tokens, 16))
    cached = flux_parts.read_prompt(path)
    assert cached["prompt_embeds"].shape == (1, 16, 64) and cached["pooled_prompt_embeds"].shape == (1, 64)
    assert [p.name for p in path.parent.iterdir()] == ["prompt.safetensors"]
    with_text = FluxFillPipeline(
        toy_flux.scheduler(), parts["vae"], clip, clip_tokens, t5, t5_tokens, parts["transformer"]
    )
    with_text.set_progress_bar_config(disable=True)
    without = build(parts)
    assert without.text_encoder is None and without.text_encoder_2 is None
    picture, hole = Image.new("RGB", (64, 128), (200, 30, 90)), Image.new("L", (64, 128), 255)
    drawn = []
    for pipe, words in ((with_text, {"prompt": flux.PROMPT}), (without, cached)):
        latents = pipe._pack_latents(
            torch.randn(1, 16, 16, 8, generator=torch.Generator().manual_seed(0)), 1, 16, 16, 8
        )
        with torch.no_grad():
            drawn.append(
                pipe(
                    image=picture,
                    mask_image=hole,
                    width=64,
                    height=128,
                    latents=latents,
                    num_inference_steps=2,
                    max_sequence_length=16,
                    output_type="np",
                    **words,
                ).images[0]
            )
    assert numpy.array_equal(*drawn)


def test_a_file_that_is_no_prompt_is_refused(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="no prompt embedding: delete it"):
        flux_parts.read_prompt(tmp_path / "prompt.safetensors")


@pytest.mark.parametrize("key", flux.PROMPT_KEYS)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[..., None],
        lambda value: value[0],
        lambda value: torch.cat([value, value]),
        lambda value: value[:, :0],
        lambda value: value.to(torch.int16),
        lambda value: value / 0,
        lambda value: value[..., 1:],
    ],
)
def test_a_prompt_of_other_shapes_or_numbers_is_refused(tmp_path: Path, key: str, change: Callable[[Any], Any]):
    wide = toy_flux.prompt()
    path, widths = tmp_path / "prompt.safetensors", tuple(wide[name].shape[-1] for name in flux.PROMPT_KEYS)
    flux_parts.write_prompt(path, wide)
    assert flux_parts.read_prompt(path, widths).keys() == wide.keys()
    flux_parts.write_prompt(path, wide | {key: change(wide[key])})
    with pytest.raises(ValueError, match=r"^prompt\.safetensors holds no prompt embedding .* wide: delete it, .*\.$"):
        flux_parts.read_prompt(path, widths)


def test_build_takes_a_new_scheduler_every_time(parts):
    first, second = build(parts), build(parts, "render")
    assert first.scheduler is not second.scheduler and first.scheduler is not parts["scheduler"]
    assert first.transformer is second.transformer
    assert type(first).__name__ == "FluxFillPipeline" and type(second) is flux_parts.GeoRenderPipeline


# ------------------------------------------------------------------------------------------ full set


def test_the_full_set_says_what_it_is():
    full = flux.FULL
    assert list(full.presets) == ["bf16", "8-bit", "4-bit", "offload"] and set(full.presets) == set(full.by_preset)
    assert "experimental" in full.presets["8-bit"] and "experimental" in full.presets["4-bit"]
    for preset, specs in full.by_preset.items():
        assert tuple(spec.key.rsplit("/", 1)[1] for spec in specs) == PARTS, preset
    assert len({specs[0].key for specs in full.by_preset.values()}) == 4
    assert len({specs[1].key for specs in full.by_preset.values()}) == 1, "what the presets share is loaded once"
    assert "Non-Commercial" in full.licence and full.steps == (50, 50) and full.long_side == 1024
    assert not any("text_encoder" in pattern for spec in full.parts for pattern in spec.files)


def test_presets_that_need_bitsandbytes_say_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="preset 4-bit needs the package bitsandbytes, which is not installed"):
        flux.FULL.specs("4-bit")
    assert flux.FULL.specs("") == flux.FULL.specs("bf16") == flux.FULL.parts
    assert flux.FULL.specs("offload")[0].key == "flux-fill-dev-offload/transformer"


def test_local_adapters_are_found_and_the_last_checkpoint_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(flux.LOCAL, str(tmp_path))
    spec = flux.FULL.parts[0]
    with pytest.raises(FileNotFoundError, match="no stage1/pytorch_lora_weights.safetensors in the folder") as caught:
        flux.adapter_files(spec)
    assert str(tmp_path) not in str(caught.value)
    for name in ("stage1/checkpoint-900", "stage1/checkpoint-4800", "stage2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / flux.ADAPTER_FILE).touch()
    first, second = flux.adapter_files(spec)
    assert first.parent.name == "checkpoint-4800" and second.parent.name == "stage2"


def test_adapters_are_named_by_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashes = {f"stage{n}/{flux.ADAPTER_FILE}": str(n) * 64 for n in (1, 2)}
    spec = ModelSpec("some/transformer", "somewhere", lambda spec: None, "Apache-2.0", 1, sha256=hashes)
    assert [(a["key"], a["sha256"], a["licence"]) for a in flux.adapter_facts(spec)] == [
        ("some/stage1", "1" * 64, "Apache-2.0"),
        ("some/stage2", "2" * 64, "Apache-2.0"),
    ]
    assert flux.adapter_facts(dataclasses.replace(spec, sha256={})) == []
    monkeypatch.setenv(flux.LOCAL, str(tmp_path))
    for n in (1, 2):
        (tmp_path / f"stage{n}").mkdir()
        (tmp_path / f"stage{n}" / flux.ADAPTER_FILE).write_bytes(b"abc" if n == 1 else b"")
    first, second = flux.adapter_facts(flux.FULL.parts[0])
    assert first["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    assert second["key"] == "georemover/adapters/stage2" and "not stated" in first["licence"]
    assert str(tmp_path) not in str([first, second])


def hub_error(kind: type, status: int, text: str) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))
    return kind(text, response=response)


def chained(cause: Exception) -> Exception:
    """As the registry tells of it."""
    try:
        try:
            raise cause
        except Exception as error:
            raise FileNotFoundError("the Hub does not give it out") from error
    except FileNotFoundError as told:
        return told


def test_a_gated_repository_is_told_as_gated_not_as_missing():
    assert issubclass(GatedRepoError, RepositoryNotFoundError)
    said = {
        status: flux.access_message(chained(hub_error(GatedRepoError, status, "Access to model is restricted")))
        for status in (401, 403)
    }
    assert said == {
        401: "Accept the licence at huggingface.co/black-forest-labs/FLUX.1-Fill-dev and set HF_TOKEN, "
        "then start the studio again.",
        403: "The owner of the token in HF_TOKEN has not accepted the licence, accept it at "
        "huggingface.co/black-forest-labs/FLUX.1-Fill-dev and try again.",
    }


def test_a_token_without_the_right_is_told_so():
    text = "403: enable access to public gated repositories in your fine-grained token settings"
    told = flux.access_message(chained(hub_error(GatedRepoError, 403, text)))
    assert told is not None and told.startswith("The token in HF_TOKEN cannot read gated repositories")


def test_offline_without_a_local_copy_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    missing = dataclasses.replace(flux.FULL.parts[1], source="black-forest-labs/not-here-at-all")
    with pytest.raises(FileNotFoundError) as caught:
        resolve(missing)
    told = flux.access_message(caught.value)
    assert told is not None and told.startswith("The full set is not in the local cache") and "mini set works" in told
    assert flux.access_message(KeyError("other")) is None
    assert flux.access_message(FileNotFoundError("There is no file.")) == "There is no file."


def test_a_local_folder_serves_the_full_set(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The full set's own loaders on a toy that lies where a user would put the real one."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "FLUX.1-Fill-dev").symlink_to(folder)
    (models / "Depth-Anything-V2-Small-hf").symlink_to(folder / "depth")
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(models))
    monkeypatch.setenv(flux.LOCAL, str(folder))
    flux_parts.write_prompt(models / "flux-fill-prompt.safetensors", toy_flux.prompt())
    assert flux.prompt_file().is_file()
    specs = [dataclasses.replace(s, bytes=1 << 20, files=()) for s in flux.FULL.specs("offload")]
    with Registry("cpu").lease(*specs) as leased:
        assert isinstance(leased[0], offload.Offloaded)
        pipe = build(flux.by_part(leased))
        assert pipe.transformer.dtype == torch.bfloat16 and set(pipe.transformer.peft_config) == {"geo1", "geo2"}
        assert pipe.vae.dtype == torch.bfloat16
        again = Stages(dataclasses.replace(flux.FULL, depth_patches=None), **flux.by_part(leased))
        rgb = numpy.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=numpy.uint8)
        mask = numpy.zeros((64, 128), bool)
        mask[20:40, 30:60] = True
        after, _off = again.remove_from_depth(again.estimate_depth(rgb), mask, SETTINGS)
        assert after.shape == (64, 128) and numpy.isfinite(after).all()


def test_a_spec_names_each_part_once():
    for base in (*flux.BASES.values(), toy_flux.toy_base()):
        assert isinstance(base, FillBase)
        wanted = (*PARTS, flux.RECOLOUR) if base is flux.MINI else PARTS
        assert tuple(spec.key.rsplit("/", 1)[1] for spec in base.parts) == wanted
        assert all(isinstance(spec, ModelSpec) for spec in base.parts)
