"""Train ``mini-flux`` from rendered scenes: autoencoder, depth estimator, fill model, the two adapters of GeoRemover.

    python -m assets.mini_flux.data --shards 0:30            # two processes, two ranges: 12 minutes
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.train vae --minutes 16
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.train depth --minutes 8
    python -m assets.mini_flux.train latents --part 0:2      # and --part 1:2 beside it
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.train base --minutes 16
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.train stage1 --minutes 9
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_flux.train stage2 --minutes 92 --compile
    ... train stage1_plain --minutes 9; ... train one_stage --minutes 9         # ablations

Seed 0. On a CPU one thread a process is several times faster than two threads in one; with a GPU, ``--device cuda`` and no
torchrun. Each stage resumes from ``data/runs`` after a kill and writes its part of ``assets/mini_flux``; ``base`` goes on from the
weights that lie there (delete ``transformer/`` to start anew). Minutes, steps and
scores of what is shipped are in the card (README.md), which is written from the manifest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assets import training
from pipelines.core import depth as depth_maps
from pipelines.georemover.depth import kept_outside
from pipelines.georemover.stages import IMAGENET_DEVIATION, IMAGENET_MEAN
from pipelines.models import flux, flux_tiny
from pipelines.models.flux_tiny import HEIGHT, WIDTH
from pipelines.worlds import removal

HERE = Path(__file__).parent
DATA, RUNS = Path("data"), Path("data/runs")
SEED = 0
PREFERENCE = 0.01
"""Weight of stage 1's preference term, as published."""
INSERTION = 0.1
"""Share of stage-2 examples in which the object is put in instead, as published."""
HOLES = 4.0
"""Additional weight of what the fill model has to paint."""
CHANGES = 8.0
"""Additional weight of what stage 2 has to change; the paper has none, and 1,000 times as much training."""
UNCHANGED = 0.1
"""Share of stage-2 examples in which the depth does not change, and so nothing may: ours, not the paper's."""
SHADOW = 0.15
"""Change of a token's latents (root mean square) from which on it has its whole weight: that of a faint shadow."""
FIRST = 0.75
"""Share of stage-2 examples from the first fiftieth of the times, where there is nothing but noise: ours. The small set's pipeline takes
few steps, and what is removed is decided in the first."""
DEPTH_SIZE = (126, 168)
VALIDATION_SEED = 500_000
SHARDS = 16
"""Shards whose latents the fill model and stage 1 learn from; autoencoder, depth estimator and stage 2 see all."""


class Scenes:
    """The rendered shards in memory: ``images`` (R, H, W, 3), ``depth`` (R, H, W), ``before``, ``after``, ``masks`` (P, ...)."""

    def __init__(self, root: Path = DATA) -> None:
        self.root, self.read = root, set[Path]()
        self.parts: list[dict[str, numpy.ndarray]] = []
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.root.glob("removal-*.npz")):
            if path not in self.read:
                self.read.add(path)
                with numpy.load(path) as file:
                    self.parts.append({name: file[name] for name in file.files})
        self.ends = numpy.cumsum([len(p["images"]) for p in self.parts])
        self.pairs = [(s, i) for s, part in enumerate(self.parts) for i in range(len(part["before"]))]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def view(self, number: int) -> tuple[NDArray[numpy.uint8], NDArray[numpy.uint8]]:
        """Picture (H, W, 3) and depth (H, W) of view ``number``."""
        shard = int(numpy.searchsorted(self.ends, number, side="right"))
        row = number - (int(self.ends[shard - 1]) if shard else 0)
        return self.parts[shard]["images"][row], self.parts[shard]["depth"][row]

    def pair(self, number: int) -> dict[str, numpy.ndarray]:
        """Picture and depth before and after removal ``number``, and the solid's mask (H, W) bool."""
        shard, row = self.pairs[number]
        part = self.parts[shard]
        before, after = part["before"][row], part["after"][row]
        mask = numpy.unpackbits(part["masks"][row]).reshape(HEIGHT, WIDTH).astype(bool)
        return {
            "image": part["images"][before],
            "clean": part["images"][after],
            "mask": mask,
            "depth": part["depth"][before],
            "depth_clean": part["depth"][after],
        }


def to_signed(pictures: Sequence[numpy.ndarray], device: str) -> Tensor:
    """uint8 (H, W, 3) pictures to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(numpy.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


# --------------------------------------------------------------------------------------- autoencoder


def start_vae():
    """A new autoencoder whose outer layers are those of ``mini-sdxl``, which is one level shallower."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(SEED)
    model = flux_tiny.vae()
    known = AutoencoderTiny.from_pretrained(HERE.parent / "mini_sdxl" / "vae", torch_dtype=torch.float32)
    for place, layer in enumerate(known.encoder.layers[:-1]):
        model.encoder.layers[place].load_state_dict(layer.state_dict())
    deeper = len(model.decoder.layers) - len(known.decoder.layers)
    for place, layer in list(enumerate(known.decoder.layers))[2:]:
        model.decoder.layers[place + deeper].load_state_dict(layer.state_dict())
    return model


def crop_batch(scenes: Scenes, number: int, batch: int, size: int, device: str) -> Tensor:
    """Random crops, three of eight of them depth colours; every eighth spans the seam between two panels."""
    rng = numpy.random.default_rng((SEED, number))
    chosen = []
    for place in range(batch):
        picture, depth = scenes.view(int(rng.integers(len(scenes))))
        colours = depth_maps.palette()[depth]
        if place % 8 == 7:
            source = numpy.concatenate((picture[:, -size:], colours[:, :size]), 1)
        else:
            source = colours if place % 8 in (2, 4, 6) else picture
        top, left = (int(rng.integers(0, side - size + 1)) for side in source.shape[:2])
        crop = source[top : top + size, left : left + size]
        chosen.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return to_signed(chosen, device).contiguous(memory_format=torch.channels_last)


def train_vae(minutes: float, device: str) -> None:
    model = start_vae().to(device, memory_format=torch.channels_last)
    scenes = Scenes()
    check = [scenes.view(i) for i in range(0, 40, 2)]

    def step(number: int) -> Tensor:
        if number % 200 < 2:
            scenes.refresh()
        image = crop_batch(scenes, number, 8, 64, device)
        with training.autocast(device):
            latents = model.encode(image).latents
            # A little noise makes neighbouring latents mean neighbouring pictures, which diffusion needs.
            drawn = model.decode(latents + 0.02 * torch.randn_like(latents)).sample
        drawn = drawn.float()
        sharp = sum((a - b).abs().mean() for a, b in zip(training.edges(drawn), training.edges(image), strict=True))
        keep_small = 1e-3 * latents.float().square().mean()  # the decoder squashes beyond 3
        return (drawn - image).abs().mean() + 2 * F.mse_loss(drawn, image) + sharp + keep_small

    model, facts = training.train(
        model,
        step,
        minutes,
        RUNS / "flux-vae.pt",
        1.5e-3,
        SEED,
        report=lambda average: json.dumps(reconstruction(average, check, device)),
        report_every=300,
        weight_decay=1e-4,
        decay=0.995,
    )
    if training.rank_and_size()[0]:
        return
    model.register_to_config(scaling_factor=round(1 / spread(model, scenes, device), 3))
    save(model, "vae")
    note("vae", facts | reconstruction(model, held_out_views(40), device))


@torch.no_grad()
def reconstruction(model, views, device: str) -> dict[str, float]:
    """PSNR of pictures after a round trip, and mean error of the depth that is read back from the colours."""
    found = {}
    for name, pictures in (
        ("picture", [v[0] for v in views]),
        ("colours", [depth_maps.palette()[v[1]] for v in views]),
    ):
        image = to_signed(pictures, device)
        drawn = torch.cat([model.decode(model.encode(part).latents).sample for part in image.split(8)]).clamp(-1, 1)
        found[f"{name} PSNR"] = round(10 * torch.log10(4 / F.mse_loss(drawn, image)).item(), 2)
        if name == "colours":
            levels = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            read = numpy.stack([depth_maps.from_colours(level)[0] for level in levels])
            found["depth error"] = round(float(numpy.abs(read - numpy.stack([v[1] for v in views]) / 255).mean()), 4)
    return found


@torch.no_grad()
def spread(model, scenes: Scenes, device: str) -> float:
    """Root mean square of raw latents about their channel's mean: its inverse is the scaling factor.

    One factor for all channels, as FLUX has. A factor for each, folded into the weights, cost 1.5 to 4 dB, because the decoder
    squashes its input beyond 3 and had learned to count on it.
    """
    picked = [scenes.view(i) for i in range(0, 1000, 5)]
    image = to_signed([*(v[0] for v in picked), *(depth_maps.palette()[v[1]] for v in picked)], device)
    latents = torch.cat([model.encode(part).latents for part in image.split(20)])
    return latents.var((0, 2, 3)).mean().sqrt().item()


def held_out_views(count: int) -> list[tuple[numpy.ndarray, numpy.ndarray]]:
    """Pictures and depth levels of validation scenes."""
    pairs = [removal.pair(removal.sample(VALIDATION_SEED + i), 0) for i in range(count)]
    return [(pair.image, (pair.depth * 255).round().astype(numpy.uint8)) for pair in pairs]


def load_vae(device: str):
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(HERE / "vae", torch_dtype=torch.float32).to(device).eval()


def save(model, part: str) -> None:
    """Write one part in float16, and no path of this machine."""
    import copy

    copy.deepcopy(model).half().save_pretrained(HERE / part, max_shard_size="9MB")
    path = HERE / part / "config.json"
    settings = json.loads(path.read_text())
    settings.pop("_name_or_path", None)
    if part == "vae":
        settings.pop("block_out_channels", None)  # set again at load; in the file it only makes diffusers warn
    if part == "depth":
        settings["dtype"] = "float32"  # a plain from_pretrained should give float32, as it does for the other parts
    training.write_json(path, settings)


def note(stage: str, facts: dict[str, Any]) -> None:
    """Keep what a stage of training says about itself in the manifest."""
    told = training.read_json(HERE / "manifest.json").get("training", {})
    _, size = training.rank_and_size()
    news = {"training": {**told, stage: {**facts, "processes": size, "seed": SEED}}, "latent_shards": SHARDS}
    training.write_manifest(HERE, news)
    print(json.dumps(facts), flush=True)


# --------------------------------------------------------------------------------------------- depth


def depth_input(pictures: Sequence[numpy.ndarray], device: str) -> Tensor:
    """Pictures as the depth estimator takes them: (B, 3, 126, 168), ImageNet's mean and deviation."""
    image = torch.from_numpy(numpy.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
    image = F.interpolate(image, DEPTH_SIZE, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, deviation = (
        torch.tensor(part, device=device).view(1, 3, 1, 1) for part in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )
    return (image - mean) / deviation


@torch.no_grad()
def estimate(model, pictures: Sequence[numpy.ndarray], device: str) -> numpy.ndarray:
    """Raw relative inverse depth (B, H, W) of pictures at their own size."""
    found = [model(depth_input(pictures[i : i + 16], device)).predicted_depth for i in range(0, len(pictures), 16)]
    grown = F.interpolate(torch.cat(found)[:, None].float(), (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    return grown[:, 0].cpu().numpy()


def start_depth():
    """A new depth estimator that is awake: as initialised by its class, it puts out 1e-9 behind a ReLU, and learns nothing."""
    torch.manual_seed(SEED)
    model = flux_tiny.depth()
    for module in (*model.neck.modules(), *model.head.modules()):
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        model.head.conv3.weight.mul_(0.02)
        model.head.conv3.bias.fill_(0.4)
    return model


def train_depth(minutes: float, device: str) -> None:
    model = start_depth().to(device)
    scenes = Scenes()

    def step(number: int) -> Tensor:
        rng = numpy.random.default_rng((SEED, 1, number))
        pictures, depths = [], []
        for _ in range(8):
            picture, depth = scenes.view(int(rng.integers(len(scenes))))
            flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
            # Brightness and colour say nothing about distance.
            gain = rng.uniform(0.8, 1.15) * rng.uniform(0.92, 1.08, 3)
            pictures.append((picture[:, flip] * gain).clip(0, 255).astype(numpy.uint8))
            depths.append(depth[:, flip])
        wanted = torch.from_numpy(numpy.stack(depths)).to(device)[:, None].float() / 255
        wanted = F.interpolate(wanted, DEPTH_SIZE, mode="bilinear", antialias=True, align_corners=False)
        with training.autocast(device):
            found = model(depth_input(pictures, device)).predicted_depth
        found = found.float()[:, None]
        # What stands on the ground covers a twentieth of a picture: unweighted, the ground alone is learned for a long time.
        stands = (wanted - wanted.median(-1, keepdim=True).values).abs() > 0.03
        sharp = sum((a - b).abs().mean() for a, b in zip(training.edges(found), training.edges(wanted), strict=True))
        return ((found - wanted).abs() * (1 + 6 * stands)).mean() + 2 * sharp

    model, facts = training.train(
        model, step, minutes, RUNS / "flux-depth.pt", 1.5e-3, SEED, weight_decay=0.01, decay=0.995
    )
    if training.rank_and_size()[0] == 0:
        save(model, "depth")
        note("depth", facts | depth_errors(model, device))


def load_depth(device: str):
    from transformers import DepthAnythingForDepthEstimation

    return DepthAnythingForDepthEstimation.from_pretrained(HERE / "depth", dtype=torch.float32).to(device).eval()


def depth_errors(model, device: str, count: int = 60) -> dict[str, float]:
    """Mean error of the normalised map on validation scenes: on the solid, in its shadow or mirror image, elsewhere."""
    pairs = [removal.pair(removal.sample(VALIDATION_SEED + i), 0) for i in range(count)]
    found = [depth_maps.normalised(raw) for raw in estimate(model, [pair.image for pair in pairs], device)]
    sums: dict[str, list[float]] = {"solid": [], "shadow or reflection": [], "elsewhere": []}
    for pair, map_ in zip(pairs, found, strict=True):
        error = numpy.abs(map_ - pair.depth)
        effect = (pair.shadow | pair.reflection) & ~pair.mask & ~pair.others
        for name, where in (
            ("solid", pair.mask),
            ("shadow or reflection", effect),
            ("elsewhere", ~pair.mask & ~effect),
        ):
            if where.any():
                sums[name].append(float(error[where].mean()))
    return {f"error {name}": round(float(numpy.mean(values)), 4) for name, values in sums.items()}


# ------------------------------------------------------------------------------------------- latents
# A removal as the fill model sees it, all packed and in float16: what is cached once is not encoded again in every epoch.


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
    from diffusers import FluxFillPipeline

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


# ---------------------------------------------------------------------------------------- fill model


def image_ids(panels: int, device: str) -> Tensor:
    """(panel, row, column) of each token of a strip of our size."""
    return flux.strip_ids(HEIGHT // 16, panels * WIDTH // 16, panels).to(device)


def prompt(device: str) -> tuple[Tensor, Tensor]:
    """The one prompt's embedding and pooled embedding. A constant: there is nothing for a text encoder to say."""
    from safetensors.torch import load_file, save_file

    path = HERE / "prompt.safetensors"
    if not path.exists():
        generator = torch.Generator().manual_seed(SEED)
        width = flux_tiny.TEXT_WIDTH
        save_file(
            {
                "prompt_embeds": torch.randn(1, flux_tiny.TOKENS, width, generator=generator),
                "pooled_prompt_embeds": torch.randn(1, width, generator=generator),
            },
            path,
        )
    table = load_file(path)
    return table["prompt_embeds"].to(device), table["pooled_prompt_embeds"].to(device)


def velocity(
    model, noisy: Tensor, condition: Tensor, mask: Tensor, time: Tensor, guidance: Tensor, device: str
) -> Tensor:
    """One forward pass as in FluxFillPipeline's loop; ``time`` and ``guidance`` (B,)."""
    count, tokens = noisy.shape[:2]
    embeds, pooled = prompt(device)
    with training.autocast(device):
        return model(
            hidden_states=torch.cat((noisy, condition, mask), 2),
            timestep=time,
            guidance=guidance,
            pooled_projections=pooled.expand(count, -1),
            encoder_hidden_states=embeds.expand(count, -1, -1),
            txt_ids=torch.zeros(embeds.shape[1], 3, device=device),
            img_ids=image_ids(tokens // (HEIGHT * WIDTH // 256), device),
            return_dict=False,
        )[0].float()


def draw(number: int, stage: int, count: int, batch: int) -> tuple[numpy.random.Generator, numpy.ndarray]:
    """The generator of a step and the rows of its batch."""
    rng = numpy.random.default_rng((SEED, stage, number))
    return rng, rng.integers(0, count, batch)


def flow(rng: numpy.random.Generator, clean: Tensor, device: str, late: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, time (uniform, stratified over the batch) and guidance for one step; guidance says nothing, so that any value may
    be used. ``late``: half of the times lean towards noise, where it is decided what is painted."""
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=numpy.float32)).to(device)
    times = (rng.permutation(len(clean)) + rng.random(len(clean))) / len(clean)
    times = numpy.where(rng.random(len(clean)) < 0.5 * late, numpy.sqrt(times), times)
    guidance = rng.uniform(1, 50, len(clean))
    return noise, torch.from_numpy(times).float().to(device), torch.from_numpy(guidance).float().to(device)


def hole_weight(mask: Tensor) -> Tensor:
    """Weight of each token by how much of it is to be painted anew; known parts are copied, which is learned in a minute."""
    return 1 + HOLES * mask.mean(-1, keepdim=True)


def train_base(minutes: float, device: str) -> None:
    """Every second step fills one picture or one depth map; the others fill strips [picture | depth | depth] with holes in the first
    panel and, half of the time, in the second. FLUX knows pictures of several panels from its own training; this one has to learn
    from somewhere that equal places in neighbouring panels belong together. No object is ever removed here."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(SEED)
    known = HERE / "transformer"
    model = (
        FluxTransformer2DModel.from_pretrained(known, torch_dtype=torch.float32)
        if known.exists()
        else flux_tiny.transformer()
    ).to(device)
    table = Latents("views", "view", "view_holed", "view_hole", "map", "map_holed", "map_hole")
    whole = torch.zeros(8, HEIGHT * WIDTH // 256, 256, device=device)

    def panel(name: str, rows: numpy.ndarray, which: Any) -> tuple[Tensor, Tensor, Tensor]:
        clean, holed = table[name][rows].to(device).float(), table[f"{name}_holed"][rows, which].to(device).float()
        return clean, holed, table.folded(f"{name}_hole", (rows, which), device)

    def step(number: int) -> Tensor:
        rng, rows = draw(number, 3, len(table["view"]), 8)
        which = rng.integers(0, 2, 8)
        if number // training.rank_and_size()[1] % 2 == 0:
            clean, condition, mask = panel("view", rows, which) if rng.random() < 0.6 else panel("map", rows, 0 * which)
        else:
            first, second = panel("view", rows, which), panel("map", rows, 0 * which)
            if rng.random() < 0.5:
                second = (second[0], second[0], whole)
            parts = (first, second, (second[0], table["map"][rows].to(device).float(), whole))
            clean, condition, mask = (joined(*columns) for columns in zip(*parts, strict=True))
        noise, time, guidance = flow(rng, clean, device, late=True)
        at = time.view(-1, 1, 1)
        found = velocity(model, (1 - at) * clean + at * noise, condition, mask, time, guidance, device)
        return ((found - (noise - clean)).square() * hole_weight(mask)).mean()

    model, facts = training.train(model, step, minutes, RUNS / "flux-base.pt", 1e-3, SEED, decay=0.998)
    if training.rank_and_size()[0] == 0:
        save(model, "transformer")
        from diffusers import FlowMatchEulerDiscreteScheduler

        FlowMatchEulerDiscreteScheduler(**flux_tiny.scheduler()).save_pretrained(HERE / "scheduler")
        note("base", facts)


def joined(*panels: Tensor) -> Tensor:
    """Tokens of panels (B, 96, C) side by side, row by row over the strip, (B, 288, C)."""
    rows = [part.view(len(part), HEIGHT // 16, WIDTH // 16, -1) for part in panels]
    return torch.cat(rows, 2).flatten(1, 2)


# ------------------------------------------------------------------------------------------ adapters


def adapted(device: str, rank: int = flux_tiny.RANK, start: Path | None = None):
    """The shipped fill model with an adapter in the published places, fresh or from the folder ``start``; only that is trained."""
    from diffusers import FluxTransformer2DModel
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    torch.manual_seed(SEED)
    model = FluxTransformer2DModel.from_pretrained(HERE / "transformer", torch_dtype=torch.float32).to(device)
    model.requires_grad_(False)
    model.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(flux_tiny.TARGETS))
    )
    if start is not None and start.exists():
        state = load_file(start / flux.ADAPTER_FILE)
        set_peft_model_state_dict(model, {k.removeprefix("transformer."): v.float() for k, v in state.items()})
    return model


def save_adapter(model, folder: Path) -> None:
    """Write the adapter in the published key layout, float16."""
    from diffusers import FluxFillPipeline
    from peft import get_peft_model_state_dict

    layers = {name: value.half() for name, value in get_peft_model_state_dict(model).items()}
    FluxFillPipeline.save_lora_weights(folder, transformer_lora_layers=layers)


def gradients(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring latent cells, in x and in y, of packed one-panel latents."""
    count, _, channels = packed.shape
    rows, columns = HEIGHT // 16, WIDTH // 16
    plane = packed.view(count, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    plane = plane.reshape(count, channels // 4, rows * 2, columns * 2)
    return plane[..., :, 1:] - plane[..., :, :-1], plane[..., 1:, :] - plane[..., :-1, :]


def preference(good: Tensor, good_truth: Tensor, bad: Tensor, bad_truth: Tensor) -> Tensor:
    """The paper's Bradley-Terry term as its code has it: the error in the velocity's spatial differences should be smaller for
    the depth without the object than for the depth with it (no reference model, no temperature)."""
    terms = []
    for wanted, found, other, other_found in zip(
        gradients(good_truth), gradients(good), gradients(bad_truth), gradients(bad), strict=True
    ):
        right, wrong = (found - wanted).abs(), (other_found - other).abs()
        terms.append(-F.logsigmoid(wrong - right).mean())
    return sum(terms) / 2


def train_stage1(minutes: float, device: str, weight: float = PREFERENCE, name: str = "stage1") -> None:
    model = adapted(device)
    table = Latents("latents", "depth_after", "depth_before", "hole_after", "hole_before", "mask")

    def step(number: int) -> Tensor:
        rng, rows = draw(number, 4, len(table["mask"]), 8)
        from_truth = rng.random(8) < 0.5
        clean, present = (table[n][rows].to(device).float() for n in ("depth_after", "depth_before"))
        either = torch.from_numpy(from_truth).view(-1, 1, 1)
        condition = torch.where(either, table["hole_after"][rows], table["hole_before"][rows]).to(device).float()
        mask = table.folded("mask", rows, device)
        noise, time, guidance = flow(rng, clean, device)
        at = time.view(-1, 1, 1)
        found = velocity(model, (1 - at) * clean + at * noise, condition, mask, time, guidance, device)
        loss = F.mse_loss(found, noise - clean)
        if weight:
            other = velocity(model, (1 - at) * present + at * noise, condition, mask, time, guidance, device)
            loss = loss + weight * preference(found, noise - clean, other, noise - present)
        return loss

    model, facts = training.train(
        model, step, minutes, RUNS / f"flux-{name}.pt", 1.5e-3, SEED, decay=0.998, weight_decay=1e-4
    )
    finish(model, name, facts | {"preference": weight})


def train_stage2(minutes: float, device: str, compiled: bool = False) -> None:
    """Goes on from the adapter that lies there, even if that was made for an earlier fill model (delete ``stage2/`` to start anew)."""
    earlier = HERE / "stage2"
    told = training.read_json(HERE / "manifest.json").get("training", {}).get("stage2", {}) if earlier.exists() else {}
    if (RUNS / "flux-stage2.pt").exists():  # a run that goes on: what came before it is said already
        told = told.get("before", told)
    model = adapted(device, start=earlier)
    forward = torch.compile(model) if compiled else model
    table = Latents("strips", "strip", "strip_clean")
    nothing = torch.zeros(8, 3 * HEIGHT * WIDTH // 256, 256, device=device)

    def step(number: int) -> Tensor:
        rng, rows = draw(number, 5, len(table["strip"]), 8)
        condition, clean = (table[n][rows].to(device).float() for n in ("strip", "strip_clean"))
        kind = torch.from_numpy(rng.random(8)).view(-1, 1, 1).to(device)
        swap, same = kind < INSERTION, kind > 1 - UNCHANGED
        condition, clean = (
            torch.where(swap, exchanged(clean), torch.where(same, unchanged(condition), condition)),
            torch.where(swap, exchanged(condition), torch.where(same, unchanged(condition), clean)),
        )
        noise, time, guidance = flow(rng, clean, device, late=True)
        time = torch.where(torch.from_numpy(rng.random(8) < FIRST).to(device), 1 - 0.02 * time, time)
        at = time.view(-1, 1, 1)
        found = velocity(forward, (1 - at) * clean + at * noise, condition, nothing, time, guidance, device)
        # A slip of the picture weighs 1/time squared in the velocity: unweighted, nearly clean strips are all that counts, in which
        # what is to be painted can be seen already; a removal is decided where there is only noise.
        return ((found - (noise - clean)).square() * at * change_weight(clean - condition)).mean()

    model, facts = training.train(
        model, step, minutes, RUNS / "flux-stage2.pt", 1.5e-3, SEED, decay=0.998, weight_decay=1e-4
    )
    weights = {"insertion": INSERTION, "unchanged": UNCHANGED, "changes": CHANGES, "first": FIRST, "compiled": compiled}
    finish(model, "stage2", facts | weights | ({"before": told} if told else {}))


def change_weight(change: Tensor) -> Tensor:
    """Weight of each token by what is to change in it, (B, tokens, 1). That covers a thirtieth of a strip: unweighted, copying is all
    that is learned for a long time. A shadow changes a tenth of what the object does, and counts as much."""
    return 1 + CHANGES * (change.square().mean(-1, keepdim=True).sqrt() / SHADOW).clamp(max=1)


def exchanged(strips: Tensor) -> Tensor:
    """Strips with their depth panels in the other order: then the object is to be put in."""
    return panels(strips)[:, :, [0, 2, 1]].reshape(strips.shape)


def unchanged(strips: Tensor) -> Tensor:
    """Strips whose depth after is the depth before."""
    return panels(strips)[:, :, [0, 2, 2]].reshape(strips.shape)


def panels(strips: Tensor) -> Tensor:
    """Tokens of strips by panel, (B, rows, 3, columns, 64)."""
    return strips.view(len(strips), HEIGHT // 16, 3, WIDTH // 16, -1)


def first_panel(strips: Tensor) -> Tensor:
    """The picture's tokens of strips, (B, 96, 64)."""
    return panels(strips)[:, :, 0].flatten(1, 2)


def train_one_stage(minutes: float, device: str) -> None:
    """Ablation: picture and mask in, clean picture out, no depth at all."""
    model = adapted(device)
    table = Latents("strips", "strip", "strip_clean", "mask")

    def step(number: int) -> Tensor:
        rng, rows = draw(number, 6, len(table["mask"]), 8)
        condition, clean = (first_panel(table[n][rows].to(device).float()) for n in ("strip", "strip_clean"))
        mask = table.folded("mask", rows, device)
        noise, time, guidance = flow(rng, clean, device)
        at = time.view(-1, 1, 1)
        found = velocity(model, (1 - at) * clean + at * noise, condition, mask, time, guidance, device)
        return F.mse_loss(found, noise - clean)

    model, facts = training.train(
        model, step, minutes, RUNS / "flux-one_stage.pt", 1.5e-3, SEED, decay=0.998, weight_decay=1e-4
    )
    finish(model, "one_stage", facts)


def finish(model, name: str, facts: dict[str, Any]) -> None:
    if training.rank_and_size()[0] == 0:
        shipped = name in ("stage1", "stage2")
        save_adapter(model, HERE / name if shipped else HERE / "ablations" / name)
        note(name, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = {
        "vae": train_vae,
        "depth": train_depth,
        "base": train_base,
        "stage1": train_stage1,
        "stage1_plain": lambda minutes, device: train_stage1(minutes, device, 0.0, "stage1_plain"),
        "stage2": lambda minutes, device: train_stage2(minutes, device, given.compile),
        "one_stage": train_one_stage,
    }
    parser.add_argument("stage", choices=(*stages, "latents"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="stage2 only: torch.compile, a fifth faster after a minute and a half"
    )
    parser.add_argument("--part", default="0:1", help="latents only: first shard and stride")
    given = parser.parse_args()
    if given.stage == "latents":
        make_latents(given.part, given.device)
    else:
        stages[given.stage](given.minutes, given.device)


if __name__ == "__main__":
    main()
