"""Golden Noise: the algebra of re-denoising, the settings' limits, and whole runs on the shipped models."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from assets.golden_noise import examples
from pipelines import golden_noise
from pipelines.core.lane import Cancelled, Job, Progress
from pipelines.core.patching import fingerprint
from pipelines.core.registry import Registry
from pipelines.core.weights import ROOT, from_hub, multiplies_halves, resolve
from pipelines.golden_noise import Outcome, Preview, Settings, npnet
from pipelines.models import sdxl, sdxl_parts, sdxl_tiny
from pipelines.worlds.prompts import read_prompt

PROMPT = "a red cube to the left of a blue ball on a wooden floor"


def scheduler(steps: int = 10):
    made = DDIMScheduler(**sdxl_tiny.sampler())
    made.set_timesteps(steps)
    return made


# ------------------------------------------------------------------------------------------- algebra


def test_redenoise_with_equal_guidance_gives_the_noise_back():
    noise, constant = torch.randn(2, 4, 6, 5).double(), torch.randn(2, 4, 6, 5).double()
    back = golden_noise.redenoise(noise, lambda x, t, w: constant, scheduler(), 3.0, 3.0)
    torch.testing.assert_close(back, noise)


def test_redenoise_moves_along_the_guidance_direction():
    noise, direction = torch.randn(1, 4, 6, 5).double(), torch.randn(1, 4, 6, 5).double()
    made = scheduler()
    golden = golden_noise.redenoise(noise, lambda x, t, w: w * direction, made, 5.5, 1.0)
    high, low = (made.alphas_cumprod[int(t)].double().item() for t in made.timesteps[:2])
    # x' - x = k (w_strong - w_weak) direction, with k from the two noise levels (derived, spec section 6).
    k = math.sqrt(high / low) * math.sqrt(1 - low) - math.sqrt(1 - high)
    torch.testing.assert_close(golden - noise, 4.5 * k * direction)
    assert k < 0, "stronger guidance pushes against the predicted noise"


def by_diffusers(noise: torch.Tensor, predict, down: DDIMScheduler) -> torch.Tensor:
    """The released step out of diffusers' own schedulers: the model at the first level twice, the inverse step at the second."""
    first, second = down.timesteps[:2]
    up = DDIMInverseScheduler.from_config(down.config)
    up.set_timesteps(len(down.timesteps))
    moved = down.step(predict(noise, int(first), 5.5), first, noise).prev_sample
    return up.step(predict(moved, int(first), 1.0), second, moved).prev_sample


def test_the_released_step_back_is_one_grid_step_off():
    down = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    down.set_timesteps(golden_noise.GRID)

    def predict(latents: torch.Tensor, level: int, guidance: float) -> torch.Tensor:
        return (latents + guidance * level / 1000).tanh()

    noise = golden_noise.draw_noise(1, (2, 4, 6, 5)).double()
    exact, released = (golden_noise.redenoise(noise, predict, down, 5.5, 1.0, how) for how in (False, True))
    torch.testing.assert_close(released, by_diffusers(noise, predict, down), atol=1e-5, rtol=0)
    assert (released - exact).abs().max() > 0.05
    back = [golden_noise.redenoise(noise, lambda x, t, w: x * 0 + 1, down, 3.0, 3.0, how) for how in (False, True)]
    torch.testing.assert_close(back[0], noise)
    assert (back[1] - noise).abs().max() > 0.05, "it does not come back"


def test_noise_is_the_seed_s_and_normal():
    noise = golden_noise.draw_noise(3, (1, 4, 32, 32))
    assert torch.equal(noise, golden_noise.draw_noise(3, (1, 4, 32, 32)))
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_the_cut_schedule_is_a_prefix_of_sdxl_s():
    whole = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000)
    for steps in (10, 720, 1000):
        cut = DDIMScheduler(**sdxl_tiny.cut_schedule(steps)).alphas_cumprod
        torch.testing.assert_close(cut, whole.alphas_cumprod[:steps], atol=1e-6, rtol=1e-4)


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "   "}, "prompt is empty"),
        ({"prompt": None}, "prompt is nothing .null. but must be a text"),
        ({"prompt": "a" * 100_000}, "100,000 characters"),
        ({"steps": 10**9}, "number of steps is 1000000000"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": "5"}, "guidance is '5'"),
        ({"strength": float("inf")}, "golden strength is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**31}, "from 0 to 2147483647"),
        ({"model_set": "huge"}, "choose one of mini, full"),
        ({"source": "magic"}, "'magic' is unknown: choose one of npnet, npnet_paper, redenoise"),
        ({"source": None}, "Golden noise from nothing"),
        ({"source": ["npnet"]}, "Golden noise from"),
    ],
)
def test_wrong_settings_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as caught:
        Settings(**{"prompt": PROMPT, **change}).validated()
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 200


def test_right_settings_come_back_with_exact_types():
    settings = Settings(PROMPT + " ", seed=3.0, steps=4.0, guidance=2, strength=0, source="redenoise").validated()
    assert settings == Settings(PROMPT, 3, 4, 2.0, 0.0, "mini", "redenoise")
    assert type(settings.seed) is int and type(settings.guidance) is float


def test_every_example_and_surprise_is_valid():
    assert len(golden_noise.EXAMPLES) == examples.WON + examples.LOST + len(golden_noise.USUAL)
    for prompt, seed in golden_noise.EXAMPLES:
        Settings(prompt, seed).validated()
        assert not read_prompt(prompt).unknown
    for seed in range(50):
        Settings(golden_noise.surprise(seed)).validated()


def test_examples_are_chosen_by_how_they_come_out():
    """Two where only golden noise is right, then one where only standard noise is; never two that begin alike."""
    listed = [
        (f"a {colour} cube on {ground}", seed)
        for seed, colour in enumerate("red blue green".split())
        for ground in "ab"
    ]
    listed += [(f"the {kind} person", 9) for kind in "old tall young kind small".split()]
    standard, golden = [False] * 10 + [True], [True] * 10 + [False]
    asked = []

    def holds(case, won):
        asked.append(won)
        return case != listed[0]

    chosen = examples.choose(listed, standard, golden, holds)
    assert len(chosen) == 3 and chosen[-1] == listed[-1] and asked[-1] is False
    assert listed[0] not in chosen and listed[1] in chosen, "what does not hold alone is left out"
    assert len({" ".join(prompt.split()[:3]) for prompt, _seed in chosen}) == 3


def test_how_often_each_noise_wins_is_said_with_its_interval(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    path.write_text('{"claim": "x", "evaluation": {"arms": {"npnet": {"wins": 20, "losses": 5, "of": 100}}}}')
    monkeypatch.setattr(golden_noise, "MEASURED", path)
    assert (
        "alone was right in 20.0 % [13.3, 28.9], standard noise alone in 5.0 % [2.2, 11.2]" in golden_noise.how_often()
    )


# ---------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def registry():
    return Registry("cpu")


def run(registry: Registry, settings: Settings, job: Job | None = None) -> Outcome:
    return golden_noise.generate(job or Job(), registry, settings)


def same(first, second) -> bool:
    return first.tobytes() == second.tobytes()


def test_the_same_settings_give_the_same_bytes(registry):
    settings = Settings(PROMPT, seed=5, steps=4)
    first, second = run(registry, settings), run(registry, settings)
    assert same(first.standard, second.standard) and same(first.golden, second.golden)
    assert first.standard.size == (256, 256)
    other = run(registry, dataclasses.replace(settings, seed=6))
    assert not same(first.standard, other.standard)


def test_strength_zero_is_the_standard_noise(registry):
    outcome = run(registry, Settings(PROMPT, seed=5, steps=4, strength=0))
    assert same(outcome.standard, outcome.golden)
    assert outcome.measurements["noise"]["change_rms"] == 0
    moved = run(registry, Settings(PROMPT, seed=5, steps=4, strength=1))
    assert same(outcome.standard, moved.standard), "the standard picture does not depend on the golden noise"
    assert moved.measurements["noise"]["change_rms"] > 0 and not same(moved.standard, moved.golden)


def test_previews_and_progress_arrive_while_drawing(registry):
    job = Job()
    run(registry, Settings(PROMPT, steps=8), job)
    items = [job.out.get_nowait() for _ in range(job.out.qsize())]
    previews = [item for item in items if isinstance(item, Preview)]
    assert len(previews) >= 4 and [p.step for p in previews] == sorted(p.step for p in previews)
    assert all(p.standard.size == p.golden.size for p in previews)
    progress = [item.fraction for item in items if isinstance(item, Progress)]
    assert progress == sorted(progress) and progress[-1] == 1.0


def test_stop_ends_within_one_step_and_changes_no_model(registry):
    class StopsAtStepTwo(Job):
        steps = 0

        def progress(self, fraction, text=""):
            self.steps += text.startswith("step")
            if self.steps == 2:
                self.stop.set()
            super().progress(fraction, text)

    with registry.lease(*golden_noise.parts("mini").values()) as models:
        modules = [m for m in models if isinstance(m, torch.nn.Module)]
        before = [fingerprint(m) for m in modules]
    job = StopsAtStepTwo()
    with pytest.raises(Cancelled):
        run(registry, Settings(PROMPT, steps=50), job)
    assert job.steps == 2
    first = run(registry, Settings(PROMPT, seed=1, steps=3))
    run(registry, Settings("a smiling person with long red hair, glasses and no beard", seed=2, steps=3))
    assert same(first.golden, run(registry, Settings(PROMPT, seed=1, steps=3)).golden)
    assert [fingerprint(m) for m in modules] == before


def test_verdicts_name_every_attribute_of_the_prompt(registry):
    outcome = run(registry, Settings("a glossy red cube left of a blue ball on marble under the sky", steps=4))
    asked = {(v.attribute, v.wanted) for v in outcome.verdict_standard}
    assert ("shape of the left object", "cube") in asked and ("colour of the right object", "blue") in asked
    assert ("finish of the left object", "glossy") in asked and ("backdrop", "sky") in asked
    assert all(v.right == (v.wanted == v.seen) and 0 <= v.confidence <= 1 for v in outcome.verdict_golden)


LONG = (
    "a shiny yellowish cube to the left of a dull purplish sphere with a smallish blueish reflection on a wooden floor "
    "under the sky and a red cone"
)


def test_words_behind_the_last_token_are_named_and_not_judged(registry):
    outcome = run(registry, Settings(LONG, steps=2))
    told = outcome.measurements
    assert told["unread_words"][-2:] == ["red", "cone"] and told["settings"]["prompt"] == LONG
    (note,) = told["notes"]
    assert (
        "red cone” was not read" in note and not told["fully_right"]["standard"] and not told["fully_right"]["golden"]
    )
    missed = {v.attribute: v.wanted for v in outcome.verdict_standard if v.right is None}
    assert missed["shape of the third object"] == "cone" and missed["number of objects"] == "3"
    short = run(registry, Settings(PROMPT, steps=2)).measurements
    assert short["unread_words"] == [] and short["notes"] == []


def test_control_tokens_in_a_prompt_are_text(registry):
    plain, odd = (run(registry, Settings(f"a red cube{more} on wood", steps=2)) for more in ("", " <|endoftext|>"))
    ended = run(registry, Settings("a red cube", steps=2))
    assert not same(odd.standard, ended.standard) and not same(odd.standard, plain.standard)


def test_a_prompt_outside_the_world_is_drawn_but_not_judged(registry):
    outcome = run(registry, Settings("zebra quantum", steps=2))
    assert outcome.verdict_standard == [] and outcome.measurements["unknown_words"] == ["zebra", "quantum"]
    assert outcome.measurements["fully_right"] == {"standard": None, "golden": None}


def test_measurements_are_json_and_say_which_models_answered(registry):
    outcome = run(registry, Settings(PROMPT, steps=2))
    told = json.loads(json.dumps(outcome.measurements))
    assert {m["licence"] for m in told["models"]} == {"Apache-2.0"}
    assert [m["key"] for m in told["models"]] == ["mini-sdxl2/unet", "verifier/judge", "mini-npnet/film"]
    assert told["npnet_seconds"] < told["seconds"]
    noise = told["noise"]
    assert noise["change_peak"] > noise["change_rms"] > 0 and sum(noise["energy"].values()) == pytest.approx(
        1, abs=1e-3
    )
    for name, length in (("channel_means", 16), ("singular_values", 64), ("spectrum", 9)):
        assert len(noise[f"{name}_before"]) == len(noise[f"{name}_after"]) == length
    assert outcome.heat.size == (256, 256)


def test_every_source_gives_another_golden_noise_beside_the_same_standard(registry):
    outcomes = {
        source: run(registry, Settings(PROMPT, seed=5, steps=2, source=source)) for source in golden_noise.SOURCES
    }
    assert len({outcome.standard.tobytes() for outcome in outcomes.values()}) == 1
    assert len({outcome.golden.tobytes() for outcome in outcomes.values()}) == 4
    answered = {source: {m["key"] for m in o.measurements["models"]} for source, o in outcomes.items()}
    assert "mini-npnet/film" in answered["npnet"] and "mini-npnet/paper" in answered["npnet_paper"]
    for source in golden_noise.NO_NETWORK:
        assert not any("npnet" in key for key in answered[source]), "re-denoising needs no network"
    again = run(registry, Settings(PROMPT, seed=5, steps=2, source="redenoise"))
    assert same(again.golden, outcomes["redenoise"].golden)


def test_a_glance_is_what_so_few_steps_draw(registry):
    asked = Settings(PROMPT, seed=5, source="npnet", strength=1.5)
    seen = golden_noise.glance(Job(), registry, asked)
    drawn = run(registry, dataclasses.replace(asked, steps=golden_noise.GLANCE_STEPS))
    assert seen.steps == golden_noise.GLANCE_STEPS
    assert same(seen.standard, drawn.standard) and same(seen.golden, drawn.golden)
    assert golden_noise.glance(Job(), registry, dataclasses.replace(asked, steps=2)).steps == 2, "never more than asked"
    stopped = Job()
    stopped.stop.set()
    with pytest.raises(Cancelled):
        golden_noise.glance(stopped, registry, asked)
    with pytest.raises(ValueError, match="The prompt is empty"):
        golden_noise.glance(Job(), registry, dataclasses.replace(asked, prompt=" "))


def test_another_sampler_draws_another_picture_and_the_same_again(registry):
    """In two steps a sampler of the second order is one of the first all along, which may draw the same."""
    own, dpm, again = (run(registry, Settings(PROMPT, seed=5, steps=4, sampler=name)) for name in ("", "dpm", "dpm"))
    assert same(dpm.golden, again.golden) and not same(dpm.standard, own.standard)


def test_a_few_step_sampler_adds_the_same_noise_to_both_pictures(registry):
    """Nothing but the starting noise may differ, and that not at strength 0."""
    with registry.lease(*sdxl.MINI.parts) as parts, torch.inference_mode():
        golden = golden_noise.GoldenNoise(sdxl.build(parts, sampler="LCMScheduler"), None)
        noise = golden_noise.draw_noise(3, (1, 16, 16, 16)).repeat(2, 1, 1, 1)
        embeds = golden.embed([PROMPT] * 2)
        first, again, other = (golden.draw(noise, embeds, 3, 1.0, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again) and torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


@pytest.mark.parametrize("base", sdxl.OTHERS)
def test_the_models_for_a_laptop_say_what_they_are(base):
    settings = Settings(PROMPT, model_set="full", base=base, source="npnet_paper", steps=8, guidance=5.0).validated()
    assert sdxl.OTHER_WORDS.keys() == sdxl.OTHERS.keys()
    parts = golden_noise.parts("full", "npnet_paper", base)
    assert parts["unet"].source == ("segmind/SSD-1B" if base.startswith("ssd") else sdxl.FULL.source)
    assert all(spec.licence for spec in from_hub(parts["unet"])) and len(from_hub(parts["unet"])) == 1 + ("lcm" in base)
    said = " ".join(settings.remarks())
    assert ("NPNet learnt from" in said) == base.startswith("ssd") and ("guidance 1 to 2" in said) == ("lcm" in base)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": "ssd-1b"}, "The image model 'ssd-1b' is not in the set mini: leave it empty"),
        ({"base": "ssd-1b-lcm", "model_set": "full", "steps": 60}, "steps is 60 but a few-step model takes at most 50"),
        ({"base": "sd3", "model_set": "full"}, "The image model 'sd3' is unknown: choose one of ssd-1b"),
        ({"sampler": "magic"}, "The sampler 'magic' is unknown: choose one of dpm"),
    ],
)
def test_wrong_models_and_samplers_get_one_sentence(change, says):
    with pytest.raises(ValueError, match=says):
        Settings(**{"prompt": PROMPT, **change}).validated()


@pytest.mark.parametrize("strength", [-1, 4])
def test_the_ends_of_the_strength_draw_whole_pictures(registry, strength):
    outcome = run(registry, Settings(PROMPT, seed=5, steps=2, strength=strength))
    noise = outcome.measurements["noise"]
    once = run(registry, Settings(PROMPT, seed=5, steps=2)).measurements["noise"]
    assert noise["change_rms"] == pytest.approx(abs(strength) * once["change_rms"], rel=1e-3)
    low, high = zip(*outcome.golden.getextrema(), strict=True)
    assert min(low) < max(high), "not a blank picture"


EMULATED = pytest.mark.skipif(not multiplies_halves(), reason="this processor would emulate bfloat16")


@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=EMULATED)])
def test_the_folders_load_with_plain_diffusers_and_draw_the_same(registry, monkeypatch, halves):
    """To a rounding where our UNet multiplies as diffusers' does, and hardly to be seen where the processor has it multiply in bfloat16."""
    monkeypatch.setattr(sdxl_parts, "multiplies_halves", lambda: halves)
    folder = ROOT / "assets/mini_sdxl2"
    pipe = StableDiffusionXLPipeline.from_pretrained(
        ROOT / "assets/mini_sdxl",
        unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet"),
        vae=AutoencoderDC.from_pretrained(folder, subfolder="vae"),
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    noise = golden_noise.draw_noise(5, (1, 16, 16, 16))
    picture = pipe(PROMPT, latents=noise, num_inference_steps=4, guidance_scale=5.0, output_type="pt").images
    with registry.lease(*sdxl.MINI.parts) as parts, torch.inference_mode():
        golden = golden_noise.GoldenNoise(sdxl.build(parts), None)
        ours = golden.draw(noise, golden.embed([PROMPT]), 4, 5.0)
    assert ours.dtype == golden.pipe.unet.dtype == torch.float32
    if not halves:
        torch.testing.assert_close(picture, ours, atol=2e-3, rtol=0)
    assert (picture - ours).abs().mean() < 1.5 / 255


def test_a_batch_of_two_equals_two_of_one(registry):
    with registry.lease(*sdxl.MINI.parts) as parts, torch.inference_mode():
        noises = torch.cat([golden_noise.draw_noise(i, (1, 16, 16, 16)) for i in range(2)])
        texts = [PROMPT, "a green cone on marble"]
        golden = golden_noise.GoldenNoise(sdxl.build(parts), None)
        both = golden.draw(noises, golden.embed(texts), 3, 5.0)
        for row in range(2):
            golden = golden_noise.GoldenNoise(sdxl.build(parts), None)
            alone = golden.draw(noises[row : row + 1], golden.embed(texts[row : row + 1]), 3, 5.0)
            torch.testing.assert_close(both[row : row + 1], alone, atol=2e-3, rtol=0)


def test_a_run_that_breaks_leaves_the_vae_as_it_was(registry):
    def breaks(step, clean):
        golden.pipe.vae.double()
        raise RuntimeError("in the middle")

    with registry.lease(*sdxl.MINI.parts) as parts, torch.inference_mode():
        golden = golden_noise.GoldenNoise(sdxl.build(parts), None)
        before = fingerprint(golden.pipe.vae)
        with pytest.raises(RuntimeError, match="in the middle"):
            golden.draw(golden_noise.draw_noise(0, (1, 16, 16, 16)), golden.embed([PROMPT]), 2, 5.0, breaks)
        assert fingerprint(golden.pipe.vae) == before


def test_the_full_set_is_declared():
    assert {spec.key.split("/")[0] for spec in sdxl.FULL.parts} == {"sdxl-base-1.0"}
    assert {spec.source for spec in golden_noise.NPNETS["full"].values()} == {"Klayand/GoldenNoiseModel"}
    keys = [spec.key for spec in golden_noise.parts("full", "npnet_paper").values()]
    assert "npnet-sdxl" in keys and "verifier/judge" not in keys, "the judge knows our own world only"
    assert "npnet-sdxl" not in [spec.key for spec in golden_noise.parts("full", "redenoise").values()]


def test_a_missing_checkpoint_of_the_authors_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    (tmp_path / "GoldenNoiseModel").mkdir()
    spec = dataclasses.replace(golden_noise.NPNETS["full"]["npnet"], files=())
    with pytest.raises(FileNotFoundError, match="sdxl.pth"):
        spec.load(spec)


def test_a_local_copy_of_the_authors_checkpoint_is_taken(tmp_path, monkeypatch):
    small = {**npnet.SMALL, "tokens": 77, "text_dim": 2048}  # the text part tells that it is SDXL's
    saved, spec = npnet.NPNet(**small), golden_noise.NPNETS["full"]["npnet"]
    torch.save(saved.state_dict(), tmp_path / "my_sdxl.pth")
    monkeypatch.setattr(npnet, "OFFICIAL", {"SDXL": small})
    for named in (tmp_path / "my_sdxl.pth", tmp_path):  # the file, or the folder with it
        monkeypatch.setenv(golden_noise.LOCAL, str(named))
        loaded = spec.load(spec)
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in saved.state_dict().items())

    monkeypatch.setenv(golden_noise.LOCAL, str(tmp_path / "nowhere.pth"))
    with pytest.raises(FileNotFoundError, match="where LATENT_STUDIO_NPNET points: put sdxl.pth there"):
        spec.load(spec)
    (tmp_path / "other.pth").write_bytes(b"not a checkpoint")
    monkeypatch.setenv(golden_noise.LOCAL, str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="^other.pth is not an NPNet checkpoint") as caught:
        spec.load(spec)
    assert str(tmp_path) not in str(caught.value), "a visitor may read it"


def test_remembered_guess_leaves_the_step_as_it_was():
    made = scheduler(4)
    latents, output = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    plain = made.step(output, made.timesteps[0], latents, return_dict=False)[0]
    seen = sdxl.remember_guess(made)
    noted = made.step(output, made.timesteps[0], latents, return_dict=False)[0]
    assert torch.equal(plain, noted) and seen["clean"].shape == latents.shape


def test_hundreds_of_draws_from_one_pipeline_do_not_pile_up():
    """The lab draws thousands of times: a note on a note on a note would end in a RecursionError."""
    made = scheduler(4)
    latents, output = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    for _ in range(3000):
        seen = sdxl.remember_guess(made)
    made.step(output, made.timesteps[0], latents, return_dict=False)
    assert seen["clean"].shape == latents.shape


# As the Hub lists stabilityai/stable-diffusion-xl-base-1.0, float32 weights and other formats left out.
SDXL_FILES = """
scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors text_encoder_2/config.json
text_encoder_2/model.fp16.safetensors tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json
tokenizer/vocab.json tokenizer_2/merges.txt tokenizer_2/special_tokens_map.json tokenizer_2/tokenizer_config.json
tokenizer_2/vocab.json unet/config.json unet/diffusion_pytorch_model.fp16.safetensors vae/config.json
vae/diffusion_pytorch_model.fp16.safetensors
"""


def test_every_part_of_the_published_model_is_found_in_its_repository_s_files(tmp_path, monkeypatch):
    for name in SDXL_FILES.split():
        file = tmp_path / "stable-diffusion-xl-base-1.0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setenv("LATENT_STUDIO_MODELS", str(tmp_path))
    for spec in sdxl.FULL.parts:
        assert resolve(spec) == tmp_path / "stable-diffusion-xl-base-1.0"
    (tmp_path / "stable-diffusion-xl-base-1.0/tokenizer/merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs tokenizer/\*.txt"):
        resolve(next(spec for spec in sdxl.FULL.parts if spec.key.endswith("/tokenizer")))
