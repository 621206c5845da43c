"""What a removal leaves behind, against the renderer's truth, on held-out scenes; beside baselines and ablations (PLAN.md).

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.georemover.evaluate --write      # the card's figures
    python -m assets.georemover.evaluate --scenes 20 --arms ours                             # a look
    python -m assets.georemover.evaluate --scenes 20 --stream validation --arms ours         # for choices

Pieces are files under ``data/evaluation/removal``, marked with a hash over the weights, so that a killed run goes on and processes
share the work. ``--write`` writes ``evaluation.json`` and ``worst.webp`` (the ten scenes of the highest residual).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_fill import calculate_shift
from PIL import Image
from safetensors.torch import load_file

from assets.lab import chunks, training
from assets.mini_flux import examples, perception, train
from pipelines import georemover
from pipelines.core import depth as depth_maps
from pipelines.core import masks
from pipelines.core.lane import run_blocking
from pipelines.core.patching import fresh_scheduler
from pipelines.core.registry import Registry
from pipelines.core.weights import ModelSpec
from pipelines.georemover import LARGE, Cache, Outcome, Recipe, Request, Settings, composite, metrics
from pipelines.georemover.composite import at_size
from pipelines.georemover.stages import Stages, to_array
from pipelines.models import flux, flux_parts
from pipelines.worlds import removal
from pipelines.worlds.removal import Pair

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "mini_flux"
DONE = Path("data/evaluation/removal")
STREAMS = {"test": 700_000, "validation": 500_000, "first": 600_000}
PIECE = 5
TILE = (288, 192)
"""Of a sheet, (width, height)."""
TITLES = {
    "ours": "GeoRemover, both stages, composed",
    "raw": "the same, before it is composed",
    "no_recolouring": "the same, composed without the recolouring network",
    "recolouring_alone": "the recolouring network where nothing was removed",
    "fast": "GeoRemover, faster preset",
    "fill_only": "the base model fills the mask",
    "telea": "OpenCV (Telea) fills the mask",
    "true_depth": "ablation: true depth instead of stage 1",
    "no_preference": "ablation: stage 1 without the preference term",
    "one_stage": "ablation: one stage, no depth",
}
RUNS = ("ours", "fast", "true_depth", "no_preference", "one_stage")
"""Arms that need a run of their own; ``ours`` also gives ``raw``, both about recolouring, ``fill_only`` and ``telea``."""
NEEDS = {"no_preference": "stage1_plain", "one_stage": "one_stage"}
"""Ablations whose adapter must have been trained: its folder."""


def case(stream: str, number: int, scale: int = LARGE) -> Pair:
    """Scene ``number`` of a stream, as large as the page shows it unless another scale is asked for, with the solid that is to go."""
    seed = STREAMS[stream] + number
    scene = removal.sample(seed)
    return Recipe(seed, index=seed % len(scene.solids), scale=scale).pair()


def _without_preference(spec: ModelSpec) -> Any:
    """The transformer with the ablation's adapter in the place of stage 1's."""
    model = FluxTransformer2DModel.from_pretrained(WEIGHTS / "transformer", torch_dtype=torch.float32)
    for name, folder in (("geo1", WEIGHTS / "ablations" / "stage1_plain"), ("geo2", WEIGHTS / "stage2")):
        flux_parts.add_adapter(model, load_file(folder / flux.ADAPTER_FILE), name)
    return model


def registry_with_ablation() -> Registry:
    base = flux.BASES["mini"]
    plain = dataclasses.replace(base.parts[0], key="mini-flux-plain/transformer", load=_without_preference, sha256={})
    flux.BASES["no_preference"] = dataclasses.replace(base, name="no_preference", parts=(plain, *base.parts[1:]))
    return Registry("cpu")


def measures(pair: Pair, picture: numpy.ndarray, model: Stages) -> dict[str, Any]:
    """Everything that is told of one picture (H, W, 3), at the size of the scene but for the depth, which is the model's; flat, JSON-able."""
    size = flux.BASES["mini"].working_size(pair.image.shape[1::-1])
    seen, true = (model.raw_depth(at_size(Image.fromarray(one), size)) for one in (picture, pair.clean))
    found = metrics.against_truth(pair.image, picture, pair.clean, pair.mask)
    found["inserted"] = metrics.inserted(
        depth_maps.normalised(seen, true), depth_maps.normalised(true), masks.resized(pair.mask, size)
    )
    regions = found.pop("regions")
    scores = {f"{kind}_{name}": regions[name][kind] for name in metrics.REGIONS for kind in ("psnr", "ssim")}
    return {**found, **scores}


def told(pair: Pair, outcome: Outcome, model: Stages, raw: bool) -> dict[str, Any]:
    large = pair.image.shape[1::-1]
    picture = at_size(Image.fromarray(outcome.results[0]), large) if raw else numpy.asarray(outcome.composites[0])
    depth = outcome.metrics[0].get("depth", {})
    return {
        **measures(pair, picture, model),
        "depth_error": depth.get("error"),
        "depth_untouched": depth.get("untouched"),
    }


def one_stage(model: Stages, image: numpy.ndarray, mask: numpy.ndarray, steps: int, seed: int) -> numpy.ndarray:
    """Picture and mask in, picture out, all at the model's size, by the ablation's adapter: a plain Euler loop over FLUX's own levels."""
    transformer, vae, pipe = model.transformer, model.vae, model._fill
    if "one_stage" not in transformer.peft_config:
        state = load_file(WEIGHTS / "ablations" / "one_stage" / flux.ADAPTER_FILE)
        flux_parts.add_adapter(transformer, state, "one_stage")
    scheduler = fresh_scheduler(pipe.scheduler)
    tokens = mask.size // 256
    scheduler.set_timesteps(sigmas=numpy.linspace(1, 1 / steps, steps), mu=calculate_shift(tokens))
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode(), flux_parts.wearing(transformer, "one_stage"):
        known = vae.encode(perception.to_signed([image], "cpu")).latents * vae.config.scaling_factor
        shape, known = known.shape, examples.pack(known)
        folded = examples.fold_mask(mask[None], "cpu")
        latents = examples.pack(torch.randn(shape, generator=generator))
        for level in scheduler.timesteps:
            found = transformer(
                hidden_states=torch.cat((latents, known, folded), 2),
                timestep=level.expand(1) / 1000,
                guidance=torch.tensor([30.0]),
                pooled_projections=model.prompt["pooled_prompt_embeds"],
                encoder_hidden_states=model.prompt["prompt_embeds"],
                txt_ids=torch.zeros(model.prompt["prompt_embeds"].shape[1], 3),
                img_ids=train.image_ids(1, "cpu"),
                return_dict=False,
            )[0]
            latents = scheduler.step(found, level, latents, return_dict=False)[0]
        latents = pipe._unpack_latents(latents, *mask.shape, pipe.vae_scale_factor) / vae.config.scaling_factor
        return to_array(vae.decode(latents, return_dict=False)[0])


def run_arm(registry: Registry, arm: str, pair: Pair) -> dict[str, dict[str, Any]]:
    """Rows by arm for one scene."""
    settings = Settings.of("mini", fast=arm == "fast")
    image = Image.fromarray(pair.image)
    base = flux.BASES["mini"]
    if arm == "one_stage":
        with registry.lease(*base.parts) as parts:
            model = Stages(base, **flux.by_part(parts))
            given = georemover.prepare(Request(image, pair.mask, settings))
            picture = one_stage(model, given.image, given.mask, settings.steps_2, settings.seed)
            through = model.through_vae(given.image)
            light = model.light(given.image, picture, through)
            made, _ = composite.compose(image, picture, given.image, given.full_mask, settings, through, light)
            return {arm: measures(pair, numpy.asarray(made), model)}
    if arm == "no_preference":
        settings = dataclasses.replace(settings, model_set="no_preference")
    request = Request(image, pair.mask, settings, truth=pair, compare=arm == "ours")
    if arm == "true_depth":
        size = base.working_size(image.size)
        request.depth_before, request.depth_after = (
            cv2.resize(depth, size, interpolation=cv2.INTER_AREA) for depth in (pair.depth, pair.depth_clean)
        )
    outcome = run_blocking(georemover.generate, registry, request, Cache())
    with registry.lease(*base.parts) as parts:
        model = Stages(base, **flux.by_part(parts))
        rows = {arm: told(pair, outcome, model, raw=False)}
        rows[arm]["seconds"] = sum(v for k, v in outcome.seconds.items() if k not in ("fill only", "metrics"))
        if arm == "ours":
            rows["raw"] = told(pair, outcome, model, raw=True)
            given = georemover.prepare(request)
            through = model.through_vae(given.image)
            plain, _ = composite.compose(
                image, outcome.results[0], given.image, given.full_mask, outcome.settings, through
            )
            rows["no_recolouring"] = measures(pair, numpy.asarray(plain), model)
            light = model.light(given.image, through, through)
            if light is not None:
                slope, offset = (cv2.resize(part, image.size, interpolation=cv2.INTER_CUBIC) for part in light)
                alone = composite.recoloured(pair.image, slope, offset).round().astype(numpy.uint8)
                rows["recolouring_alone"] = measures(pair, alone, model)
            assert outcome.fill_only is not None
            for name, filled in (("fill_only", outcome.fill_only), ("telea", outcome.telea)):
                whole = composite.pasted(image, filled, given.full_mask)
                rows[name] = measures(pair, numpy.asarray(whole), model)
    return rows


def mark() -> str:
    """Short hash over weights and defaults; after a change of the code that composes or measures, empty :data:`DONE`."""
    defaults = [dataclasses.asdict(Settings.of("mini", fast=fast)) for fast in (False, True)]
    facts = [training.hashes(WEIGHTS), defaults, LARGE]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, median, quartiles and count of what is defined."""
    known = sorted(value for value in values if value is not None)
    if len(known) < 2:
        return {"n": len(known)}
    q1, median, q3 = statistics.quantiles(known, n=4)
    found = {"mean": statistics.fmean(known), "median": median, "q1": q1, "q3": q3}
    return {**{name: round(value, 4) for name, value in found.items()}, "n": len(known)}


def report(rows: dict[str, list[dict[str, Any]]], stream: str) -> dict[str, Any]:
    """What the card and the page show."""
    table: dict[str, Any] = {}
    for arm, found in rows.items():
        seconds = [row["seconds"] for row in found if "seconds" in row]

        def column(name: str, found: list[dict[str, Any]] = found) -> list[Any]:
            return [row.get(name) for row in found]

        table[arm] = {
            "title": TITLES[arm],
            "n": len(found),
            "residual": summary(column("residual_effect")),
            "psnr_effect": summary(column("psnr_effect")),
            "psnr_mask": summary(column("psnr_mask")),
            "psnr_rest": summary(column("psnr_rest")),
            "ssim_effect": summary(column("ssim_effect")),
            "change_iou": summary(column("change_iou")),
            "over_erasure": summary(column("over_erasure")),
            "inserted": round(statistics.fmean(float(bool(v)) for v in column("inserted")), 4),
            "depth_error": summary(column("depth_error")),
            "depth_untouched": summary(column("depth_untouched")),
            "seconds": round(statistics.median(seconds), 2) if seconds else None,
        }
    steps = {name: list(getattr(flux.BASES["mini"], name)) for name in ("steps", "fast")}
    worst = sorted(
        (i for i, row in enumerate(rows["ours"]) if row["residual_effect"] is not None),
        key=lambda i: -rows["ours"][i]["residual_effect"],
    )[:10]
    return {
        "scenes": len(rows["ours"]),
        "pixels": [LARGE * removal.WIDTH, LARGE * removal.HEIGHT],
        "stream": stream,
        **steps,
        "rows": table,
        "order": [arm for arm in TITLES if arm in table],
        "worst": [
            {"seed": STREAMS[stream] + i, "residual": round(rows["ours"][i]["residual_effect"], 4)} for i in worst
        ],
    }


def sheet(registry: Registry, stream: str, numbers: Sequence[int], path: Path) -> None:
    """Pictures of removals: input with the mask outlined, depth after, result, truth; two scenes a row."""
    tiles = []
    for number in numbers:
        pair = case(stream, number)
        outcome = run_blocking(
            georemover.generate, registry, Request(Image.fromarray(pair.image), pair.mask, truth=pair), Cache()
        )
        seen = masks.overlay(Image.fromarray(pair.image), pair.mask)
        after = Image.fromarray(depth_maps.to_colours(outcome.depth_after))
        tile = [at_size(one, TILE) for one in (seen, after, outcome.composites[0], Image.fromarray(pair.clean))]
        tiles.append(numpy.concatenate(tile, 1))
    rows = [numpy.concatenate(tiles[i : i + 2], 1) for i in range(0, len(tiles) - 1, 2)]
    Image.fromarray(numpy.concatenate(rows)).save(path, quality=90)


def in_words(found: dict[str, Any]) -> str:
    lines = []
    for arm, row in found["rows"].items():
        residual, psnr = row["residual"], row["psnr_effect"]
        lines.append(
            f"{arm:14} residual {residual.get('mean')} (median {residual.get('median')})  effect {psnr.get('mean')} dB  "
            f"over-erasure {row['over_erasure'].get('mean')}  inserted {row['inserted']}  mask {row['psnr_mask'].get('mean')} dB  "
            f"rest {row['psnr_rest'].get('mean')} dB  IoU {row['change_iou'].get('mean')}  "
            f"depth {row['depth_error'].get('mean')} of {row['depth_untouched'].get('mean')}  {row['seconds']} s"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--arms", default=",".join(RUNS))
    parser.add_argument("--stream", choices=tuple(STREAMS), default="test")
    parser.add_argument("--write", action="store_true", help="write the figures for the card and the page")
    parser.add_argument("--sheet", type=Path, help="write the first ten scenes of the stream as pictures")
    given = chunks.arguments_of(parser)
    torch.set_num_threads(1)
    registry, hashed = registry_with_ablation(), mark()
    wanted = given.arms.split(",")
    arms = [arm for arm in wanted if arm not in NEEDS or (WEIGHTS / "ablations" / NEEDS[arm]).exists()]
    if missing := sorted(set(wanted) - set(arms)):
        print(f"left out, because no adapter has been trained for it: {', '.join(missing)}", flush=True)
    work = [(arm, start) for start in range(0, given.scenes, PIECE) for arm in arms]
    kept = lru_cache(PIECE)(case)  # the arms of a scene follow one another

    def make(item: tuple[str, int]) -> list[dict[str, dict[str, Any]]]:
        arm, start = item
        numbers = range(start, min(start + PIECE, given.scenes))
        return [run_arm(registry, arm, kept(given.stream, number)) for number in numbers]

    pieces = chunks.complete(
        DONE, work, lambda item: f"{given.stream}-{item[0]}-{item[1]:04d}-{given.scenes}-{hashed}", make
    )
    if not chunks.is_main():
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in work:
        for scene in pieces[item]:
            for arm, row in scene.items():
                rows.setdefault(arm, []).append(row)
    if given.sheet:
        sheet(registry, given.stream, range(10), given.sheet)
    if "ours" not in rows:
        return
    found = report(rows, given.stream)
    print(in_words(found))
    if given.write:
        training.write_json(HERE / "evaluation.json", found)
        sheet(
            registry, given.stream, [row["seed"] - STREAMS[given.stream] for row in found["worst"]], HERE / "worst.webp"
        )


if __name__ == "__main__":
    main()
