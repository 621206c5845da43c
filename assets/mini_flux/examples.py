"""What mini-flux's transformer learns from: masks, encoded views, strips and depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy
import torch
from diffusers import FluxFillPipeline
from numpy.typing import NDArray
from torch import Tensor

from assets.lab import training
from assets.mini_flux.perception import (
    DATA,
    SEED,
    SHARDS,
    Scenes,
    estimate,
    load_depth,
    load_vae,
    to_signed,
)
from pipelines.core import depth as depth_maps
from pipelines.georemover.depth import kept_outside
from pipelines.models.flux_tiny import HEIGHT, WIDTH


def visitor_mask(mask: NDArray[numpy.bool_], rng: numpy.random.Generator) -> NDArray[numpy.bool_]:
    """The solid's mask as a visitor would give it: exact, grown, brushed in blobs, or a box."""
    kind = rng.random()
    wide = mask.astype(numpy.uint8)
    if kind < 0.15:
        return mask
    if kind < 0.6:
        side = int(rng.integers(1, 5)) * 2 + 1
        return cv2.dilate(wide, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0
    if kind < 0.85:
        rows, columns = numpy.nonzero(mask)
        for _ in range(int(rng.integers(8, 16))):
            place = int(rng.integers(len(rows)))
            cv2.circle(wide, (int(columns[place]), int(rows[place])), int(rng.integers(4, 10)), 1, -1)
        return cv2.dilate(wide, numpy.ones((3, 3), numpy.uint8)) > 0
    return _box(mask, int(rng.integers(1, 6)))


def _box(mask: NDArray[numpy.bool_], margin: int) -> NDArray[numpy.bool_]:
    rows, columns = numpy.nonzero(mask)
    box = numpy.zeros_like(mask)
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    box[top : rows.max() + margin + 1, left : columns.max() + margin + 1] = True
    return box


def random_mask(rng: numpy.random.Generator) -> NDArray[numpy.bool_]:
    """A hole anywhere: strokes, ellipses or boxes, 2 to 40 % of the picture."""
    mask = numpy.zeros((HEIGHT, WIDTH), numpy.uint8)
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        w, h = int(rng.integers(8, 40)), int(rng.integers(8, 36))
        if rng.random() < 0.4:
            cv2.rectangle(mask, (x - w // 2, y - h // 2), (x + w // 2, y + h // 2), 1, -1)
        elif rng.random() < 0.6:
            cv2.ellipse(mask, (x, y), (w // 2 + 4, h // 2 + 4), float(rng.integers(180)), 0, 360, 1, -1)
        else:
            points = numpy.cumsum(rng.integers(-22, 23, (5, 2)), 0) + numpy.array((x, y))
            cv2.polylines(mask, [points.astype(numpy.int32)], False, 1, int(rng.integers(8, 20)))
    return mask > 0


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h/2 w/2, 4 C), by FLUX's own routine."""
    return FluxFillPipeline._pack_latents(latents, *latents.shape)


def fold_mask(masks: numpy.ndarray, device: str) -> Tensor:
    """(B, H, W) bool to the (B, tokens, 256) that FluxFillPipeline makes of a mask."""
    count, height, width = masks.shape
    mask = torch.from_numpy(masks).to(device).float().view(count, height // 8, 8, width // 8, 8)
    return pack(mask.permute(0, 2, 4, 1, 3).reshape(count, 64, height // 8, width // 8))


@torch.no_grad()
def encode(vae, pictures: Sequence[numpy.ndarray], masks: Sequence[numpy.ndarray] | None, device: str) -> Tensor:
    """Packed, scaled latents of pictures whose masked part is grey (0), float16 on the CPU."""
    found = []
    for start in range(0, len(pictures), 16):
        image = to_signed(pictures[start : start + 16], device)
        if masks is not None:
            image = image * torch.from_numpy(~numpy.stack(masks[start : start + 16])).to(device)[:, None]
        with training.autocast(device):
            latents = vae.encode(image.contiguous(memory_format=torch.channels_last)).latents.float()
        found.append(pack(latents * vae.config.scaling_factor).half().cpu())
    return torch.cat(found)


def pair_depths(scenes: Scenes, number: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Colours of the depth before and after removal ``number``: the truth for even ones, for odd ones as an estimator might
    see it (outlines soft, objects flatter than they are, the ground wavy). The ground is the same in both maps."""
    pair = scenes.pair(number)
    if number % 2 == 0:
        return depth_maps.palette()[pair["depth"]], depth_maps.palette()[pair["depth_clean"]]
    rng = numpy.random.default_rng((SEED, 7, number))
    before, after = (pair[name].astype(numpy.float32) / 255 for name in ("depth", "depth_clean"))
    before = after + rng.uniform(0.6, 1.05) * (before - after)
    soft = rng.uniform(0.5, 2.5)
    waves = cv2.resize(
        rng.normal(0, 0.012, (4, 6)).astype(numpy.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    before, after = (cv2.GaussianBlur(part, (0, 0), soft) + waves for part in (before, after))
    return depth_maps.to_colours(before), depth_maps.to_colours(after)


def latent_shard(scenes: Scenes, vae, shard: int, device: str) -> dict[str, Tensor]:
    """What stage 1 learns from one shard of scenes."""
    rng = numpy.random.default_rng((SEED, 2, shard))
    numbers = [n for n, (s, _) in enumerate(scenes.pairs) if s == shard]
    result: dict[str, Tensor] = {}
    pairs = [scenes.pair(n) for n in numbers]
    depths = [pair_depths(scenes, n) for n in numbers]
    befores, afters = [d[0] for d in depths], [d[1] for d in depths]
    result["depth_after"], result["depth_before"] = (
        encode(vae, afters, None, device),
        encode(vae, befores, None, device),
    )
    hole = [visitor_mask(pair["mask"], rng) for pair in pairs]
    result["hole_after"], result["hole_before"] = encode(vae, afters, hole, device), encode(vae, befores, hole, device)
    result["mask"] = packed_bits(hole)
    return result


def packed_bits(masks: Sequence[NDArray[numpy.bool_]]) -> Tensor:
    """Masks (H, W) as rows of packed bits."""
    return torch.from_numpy(numpy.packbits(numpy.stack(masks).reshape(len(masks), -1), -1))


def strip_shard(scenes: Scenes, vae, shard: int, device: str) -> dict[str, Tensor]:
    """What stage 2 learns from one shard of scenes: strips before and after, and the solid's mask as a visitor gives it. Depth maps are
    the truth for even removals and for odd ones what the pipeline would find (:func:`found_depths`)."""
    rng = numpy.random.default_rng((SEED, 9, shard))
    numbers = [n for n, (s, _) in enumerate(scenes.pairs) if s == shard]
    pairs = [scenes.pair(n) for n in numbers]
    holes = [visitor_mask(pair["mask"], rng) for pair in pairs]
    depths = found_depths(load_depth(device), pairs, holes, device)
    for place, (number, pair) in enumerate(zip(numbers, pairs, strict=True)):
        if number % 2 == 0:
            depths[place] = (pair["depth"] / numpy.float32(255), pair["depth_clean"] / numpy.float32(255))
    befores, afters = ([depth_maps.to_colours(d[which]) for d in depths] for which in (0, 1))
    return {
        "mask": packed_bits(holes),
        "strip": _strips(vae, [p["image"] for p in pairs], afters, befores, device),
        "strip_clean": _strips(vae, [p["clean"] for p in pairs], afters, befores, device),
    }


def found_depths(
    model, pairs: Sequence[dict[str, numpy.ndarray]], holes: Sequence[NDArray[numpy.bool_]], device: str
) -> list[tuple[NDArray[numpy.float32], NDArray[numpy.float32]]]:
    """Depth before and after as the pipeline finds them: the estimate of the picture, and in the hole that of the picture without the
    solid, with the pipeline's own seam."""
    raw = estimate(model, [pair["image"] for pair in pairs], device)
    raw_clean = estimate(model, [pair["clean"] for pair in pairs], device)
    found = []
    for own, clean, hole in zip(raw, raw_clean, holes, strict=True):
        before, after = depth_maps.normalised(own), depth_maps.normalised(clean, own)
        found.append((before, kept_outside(after, before, hole)))
    return found


def view_shard(scenes: Scenes, vae, shard: int, device: str) -> dict[str, Tensor]:
    """What the fill model learns from: every view and its depth, whole and with holes anywhere (two for a view, one for its depth)."""
    rng = numpy.random.default_rng((SEED, 8, shard))
    views = scenes.parts[shard]["images"]
    depths = [depth_maps.palette()[depth] for depth in scenes.parts[shard]["depth"]]
    holes = [[random_mask(rng) for _ in views] for _ in range(3)]

    def bits(masks: list[list[NDArray[numpy.bool_]]]) -> Tensor:
        return torch.from_numpy(
            numpy.packbits(numpy.stack([numpy.stack(m) for m in masks], 1).reshape(len(views), len(masks), -1), -1)
        )

    return {
        "view": encode(vae, views, None, device),
        "view_holed": torch.stack([encode(vae, views, hole, device) for hole in holes[:2]], 1),
        "view_hole": bits(holes[:2]),
        "map": encode(vae, depths, None, device),
        "map_holed": encode(vae, depths, holes[2], device)[:, None],
        "map_hole": bits(holes[2:]),
    }


def _strips(vae, *panels_and_device) -> Tensor:
    """Latents of strips [picture | depth after | depth before], (B, 288, 64)."""
    *panels, device = panels_and_device
    return encode(vae, [numpy.concatenate(parts, 1) for parts in zip(*panels, strict=True)], None, device)


def make_latents(part: str, device: str) -> None:
    """Encode views and strips of all shards, and the depth maps of the first SHARDS."""
    first, step = (int(number) for number in part.split(":"))
    scenes, vae = Scenes(), load_vae(device)
    vae = vae.to(memory_format=torch.channels_last)
    work = [(view_shard, "views", n) for n in range(len(scenes.parts))]
    work += [(latent_shard, "latents", n) for n in range(min(len(scenes.parts), SHARDS))]
    work += [(strip_shard, "strips", n) for n in range(len(scenes.parts))]
    for make, name, shard in work[first::step]:
        path = DATA / f"flux-{name}-{shard:03d}.pt"
        if path.exists():
            continue
        scratch = path.with_suffix(f".{first}.tmp")
        torch.save(make(scenes, vae, shard, device), scratch)
        scratch.rename(path)
        print(path, flush=True)


class Latents:
    """All latent shards of a kind, joined by name; masks are unpacked and folded when asked for."""

    def __init__(self, kind: str, *names: str) -> None:
        parts = [torch.load(path, weights_only=True, mmap=True) for path in sorted(DATA.glob(f"flux-{kind}-*.pt"))]
        if not parts:
            raise FileNotFoundError("no latents in data/: run `python -m assets.mini_flux.train latents` first")
        self.table = {name: torch.cat([part[name] for part in parts]) for name in names}

    def __getitem__(self, name: str) -> Tensor:
        return self.table[name]

    def folded(self, name: str, rows: Any, device: str) -> Tensor:
        bits = self.table[name][rows].numpy()
        return fold_mask(numpy.unpackbits(bits, -1).reshape(-1, HEIGHT, WIDTH).astype(bool), device)
