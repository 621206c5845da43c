"""The second generation of mini-sdxl: its quick renderer, its captions, and training that goes on after a kill."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy
import pytest
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from torch import nn

from assets.lab.training import read_json
from assets.mini_sdxl.evaluate import prompts
from assets.mini_sdxl2 import autoencoder, data, evaluate, fast, loop, models, optimisers, states, train
from pipelines.worlds import grammar, portrait, tabletop
from pipelines.worlds.portrait import clay


@pytest.fixture
def uncompiled(monkeypatch):
    """The quick renderer's groups of shapes as they are: compiling them takes a minute."""
    caches = (fast._hit_of, fast._some, fast._paint)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(fast, "_compiled", lambda function: function)
    monkeypatch.setattr(fast.shutil, "which", lambda name: name)
    yield
    for cache in caches:
        cache.cache_clear()


# ------------------------------------------------------------------------------------------ renderer


@pytest.mark.parametrize("module", [tabletop, clay])
def test_the_quick_renderer_draws_what_the_public_one_draws(module, uncompiled):
    world = tabletop if module is tabletop else portrait
    scenes = [world.sample(5_000 + i) for i in range(3)]
    slow = module.render(scenes, 96).image
    with fast.renderer():
        quick = module.render(scenes, 96).image
    difference = (quick - slow).abs() * 255
    assert difference.mean() < 0.2
    assert (difference > 2).float().mean() < 0.02


def test_the_quick_renderer_leaves_the_public_one_as_it_was(uncompiled):
    before = tabletop.render, tabletop._hit, clay.parts, clay.coloured, torch.nn.functional.normalize
    with pytest.raises(RuntimeError), fast.renderer():
        raise RuntimeError("broken off")
    assert before == (tabletop.render, tabletop._hit, clay.parts, clay.coloured, torch.nn.functional.normalize)


def test_the_normal_of_a_cube_is_that_of_the_public_renderer():
    point, turn = torch.randn(3, 1, 200), torch.tensor([0.8, 0.6]).view(2, 1, 1)
    cube = tabletop.SHAPES.index("cube")
    size = torch.ones(1, 1)
    assert torch.equal(fast._normal(cube, point, size, turn), tabletop._normal(cube, point, size, turn))


@pytest.mark.parametrize("name", ["tabletop", "portrait"])
def test_truth_maps_lie_in_the_unit_interval_and_mirror(name):
    scenes = [data.WORLDS[name].sample(3)]
    truth = data.WORLDS[name].render(scenes, 64, supersample=1, truth=True)
    maps = data.truth_maps(name, truth, scenes)
    assert maps.shape == (1, len(data.TRUTHS[name]), data.CELLS, data.CELLS)
    assert 0 <= maps.min() and maps.max() <= 1
    assert torch.allclose(data.mirrored_maps(data.mirrored_maps(maps)), maps, atol=1e-6)


def test_training_sees_three_of_four_scenes_cubes_by_an_edge_and_all_else_as_the_world_has_it():
    assert all(data.scene("tabletop", seed) == tabletop.sample(seed) for seed in range(0, 200, 4))
    for seed in (seed for seed in range(200) if seed % 4):
        seen, drawn = data.scene("tabletop", seed), tabletop.sample(seed)
        assert all(30 <= math.degrees(solid.turn) <= 60 for solid in seen.solids)
        assert replace(seen, solids=()) == replace(drawn, solids=())
        assert [replace(s, turn=0) for s in seen.solids] == [replace(s, turn=0) for s in drawn.solids]
    assert data.scene("portrait", 7) == portrait.sample(7)


def test_cells_of_solids_and_faces_count_more():
    maps = torch.zeros(2, 12, 16, 16)
    maps[0, train.CUBE, 3, 4] = 1.0
    maps[0, data.TRUTHS["tabletop"].index("sky"), 9, 9] = 1.0
    maps[1, data.TRUTHS["portrait"].index("face"), 5, 6] = 0.5
    maps[1, data.TRUTHS["portrait"].index("hair"), 8, 8] = 1.0
    cover = train.things_cover(maps, [0, 1])
    assert cover.shape == (2, 1, 16, 16)
    assert cover[0, 0, 3, 4] == 1 and cover[1, 0, 5, 6] == 0.5 and cover.sum() == 1.5


# ------------------------------------------------------------------------------------------ captions


def test_the_caption_of_a_mirror_image_says_right_where_the_picture_said_left():
    sides = {"left": "right", "right": "left"}
    seen = 0
    for place in range(60):
        there = grammar.parse(train.caption("tabletop", 0, place, False, random.Random(place)))
        mirrored = grammar.parse(train.caption("tabletop", 0, place, True, random.Random(place)))
        if len(there.things) == 2 and there.relation in sides and mirrored.relation == there.relation:
            seen += 1
            assert [t.shape for t in mirrored.things] == [t.shape for t in there.things[::-1]]
    assert seen > 5


def test_the_caption_of_a_mirrored_portrait_is_one_of_the_same_portrait():
    caption = train.caption("portrait", 0, 7, True, random.Random(1))
    assert portrait.parse(caption).items() <= portrait.attributes(portrait.sample(data.seeds(0)[7])).items()


def test_a_share_of_the_portraits_captions_is_brief_and_more_cubes_are_drawn(tmp_path):
    assert len(train.caption("portrait", 0, 7, False, random.Random(1), brief=1.0)) < len(
        train.caption("portrait", 0, 7, False, random.Random(1))
    )
    name, cube = "tabletop", train.CUBE
    maps = numpy.zeros((data.PER_SHARD, 12, 16, 16), numpy.uint8)
    maps[:50, cube, 3, 3] = 255
    numpy.save(data.truth_path(name, 0, tmp_path), maps)
    numpy.save(data.picture_path(name, 0, tmp_path), numpy.zeros((data.PER_SHARD, 3, 8, 8), numpy.uint8))
    for share in (0.0, 0.5):
        latents = train.Latents(train.load_autoencoder(), tmp_path, cubes=share)
        torch.save(
            {"mark": latents.mark, "latents": torch.zeros(2 * data.PER_SHARD, 1, 1, 1)},
            tmp_path / f"{name}-latents-0000.pt",
        )
        latents.refresh()
        rng = random.Random(0)
        with_cube = sum(latents.draw_at(name, rng)[2][1] < 50 for _ in range(400)) / 400
        assert abs(with_cube - (share + (1 - share) * 0.1)) < 0.07


@pytest.mark.parametrize("kind", ["one object", "two objects", "portrait"])
def test_the_scene_of_a_prompt_fulfils_it(kind):
    for seed, text in enumerate(prompts(kind, 25)):
        scene = evaluate.scene_of(text, seed)
        if kind == "portrait":
            assert portrait.parse(text).items() <= portrait.attributes(scene).items()
            continue
        asked, facts = grammar.parse(text), tabletop.attributes(scene)
        pairs = [dict(enumerate(asked.things)), dict(enumerate(asked.things[::-1]))]
        fits = [
            all(
                thing.shape == order[i].shape and order[i].colour in (None, thing.colour)
                for i, thing in enumerate(facts["things"])
            )
            for order in pairs
        ]
        wanted = {"left": fits[0], "right": fits[1]}.get(asked.relation, any(fits))
        assert wanted
        assert asked.floor in (None, facts["floor"]) and asked.backdrop in (None, facts["backdrop"])


# ------------------------------------------------------------------------------------------ training


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4))


def run_until(model: nn.Module, checkpoint, stop: int) -> None:
    """Train the toy and kill it in step ``stop``."""

    def loss_of_step(number: int) -> torch.Tensor:
        if number == stop:
            raise KeyboardInterrupt
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        return (model(inputs) - inputs.flip(1)).square().mean()

    schedule = loop.Schedule(1.0, warmup=3, save_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        loop.learn(model, optimisers.muon(model, 1e-2), loss_of_step, schedule, checkpoint, batch=16)


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path):
    run_until(toy(), tmp_path / "killed.pt", 7)
    run_until(toy(), tmp_path / "killed.pt", 15)
    run_until(toy(), tmp_path / "whole.pt", 15)
    killed, whole = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("killed", "whole"))
    for part in ("model", "average"):
        assert all(torch.equal(killed[part][name], whole[part][name]) for name in whole[part])
    assert killed["progress"]["samples"] == whole["progress"]["samples"] == 15 * 16


def test_parts_of_a_batch_are_learnt_from_as_the_whole(tmp_path):
    batch = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(3))

    def learnt(parts: int) -> torch.Tensor:
        model = toy()

        def loss_of_step(number: int) -> torch.Tensor:
            step, part = divmod(number, parts)
            if step == len(batch):
                raise KeyboardInterrupt
            inputs = batch[step].chunk(parts)[part]
            return (model(inputs) - inputs.flip(1)).square().mean()

        schedule, path = loop.Schedule(1.0, warmup=3, parts=parts, save_seconds=0.0), tmp_path / f"{parts}.pt"
        with pytest.raises(KeyboardInterrupt):
            loop.learn(model, optimisers.muon(model, 1e-2), loss_of_step, schedule, path, batch=16 // parts)
        assert torch.load(path, weights_only=True)["progress"]["samples"] == 3 * 16
        return nn.utils.parameters_to_vector(model.parameters())

    before, halves, whole = nn.utils.parameters_to_vector(toy().parameters()), learnt(2), learnt(1)
    assert (halves - whole).norm() < 0.05 * (whole - before).norm() and not torch.equal(whole, before)


def test_muon_learns():
    model = toy()
    optimiser = optimisers.muon(model, 1e-2)
    losses = []
    for number in range(150):
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(number))
        loss = (model(inputs) - inputs.flip(1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_a_state_of_one_byte_a_number_restores_the_model(tmp_path):
    model, average = toy(), toy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
        for parameter in average.parameters():  # as it is read back from the shipped float16
            parameter.copy_(parameter.half().float())
    states.write(tmp_path, model, average, {"step": 5})
    weights, facts = states.read(tmp_path, average)
    assert facts == {"step": 5}
    for name, value in model.state_dict().items():
        assert (weights[name] - value).abs().max() < 4e-4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a toy UNet is trained and shipped."""
    monkeypatch.setattr(models, "unet", toy_unet)
    for name, path in (("HERE", tmp_path), ("RUNS", tmp_path / "runs"), ("STATE", tmp_path / "state")):
        monkeypatch.setattr(train, name, path)
    (tmp_path / "runs").mkdir()
    return tmp_path


def checkpoint(moved: float, averaged: float, step: int) -> tuple[nn.Module, nn.Module]:
    """The model and its average after a run that moved all their weights by so much."""
    student, average = train.new_student(), train.new_student()
    with torch.no_grad():
        for model, by in ((student, moved), (average, averaged)):
            for parameter in model.parameters():
                parameter.add_(by)
    progress = {"progress": vars(loop.Progress(step=step, samples=32 * step, loss=0.5)), "average_steps": step}
    torch.save({"model": student.state_dict(), "average": average.state_dict(), **progress}, train.RUNS / "unet.pt")
    return student, average


def alike(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.allclose(other.state_dict()[name], value, atol=2e-3) for name, value in one.state_dict().items())


def shipped(folder) -> nn.Module:
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)


def test_a_run_goes_on_on_a_new_machine(folder):
    student, before = checkpoint(0.02, 0.01, 12)
    train.write_state()
    restored, average, there = train.start(folder / "state", folder / "unet")
    assert (there.step, there.samples, there.first_step, there.seconds) == (12, 384, 12, 0.0)
    assert average.steps == 12 and alike(student, restored) and alike(before, average.model)


def test_an_unmeasured_unet_waits_beside_the_shipped_one(folder):
    _student, first = checkpoint(0.02, 0.01, 12)
    train.write_state()
    _student, second = checkpoint(0.2, 0.1, 20)
    train.write_state(ship=False)
    assert alike(first.unet, shipped(folder)) and not alike(second.unet, shipped(folder))
    train.ship_state()
    assert alike(second.unet, shipped(folder)) and read_json(folder / "manifest.json")["samples"] == 20 * 32
    going_on, average, progress = train.start(folder / "state", folder / "unet")
    assert alike(second, going_on) and alike(second.unet, average.model.unet) and progress.step == 20


def toy_unet():
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    )


# --------------------------------------------------------------------------------------- autoencoder


def test_mean_and_spread_of_latents_are_folded_into_the_weights():
    torch.manual_seed(0)
    model = models.autoencoder().eval()
    image = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(image).latent).sample
        autoencoder.centre(model, image)
        latents = model.encode(image).latent
        after = model.decode(latents).sample
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2
    # Padding stands for latents of 0, so the outer cells differ; the decoder sees that ring grow with its depth.
    assert torch.isfinite(after).all() and after.shape == before.shape


def test_residual_branches_begin_at_zero():
    model = models.unet()
    output = model(torch.randn(1, 16, 16, 16), 5, torch.randn(1, 3, 192), added_cond_kwargs=conditions(1)).sample
    assert output.std((2, 3)).max() < 1e-6  # nothing but the bias of the last convolution
    assert sum(p.numel() for p in model.parameters()) < 15_000_000


def conditions(count: int) -> dict[str, torch.Tensor]:
    return {"text_embeds": torch.zeros(count, 128), "time_ids": torch.zeros(count, 6)}


def test_the_sdxl_pipeline_takes_the_autoencoder(tmp_path):
    models.autoencoder().half().save_pretrained(tmp_path)
    config = AutoencoderDC.from_pretrained(tmp_path).config
    assert 2 ** (len(config.block_out_channels) - 1) == models.FACTOR
    assert config.force_upcast is False and config.scaling_factor == 1.0
    assert sum(p.numel() for p in models.autoencoder().parameters()) < 4_200_000
