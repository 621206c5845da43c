"""Train the three ControlNets of ``mini-sdxl``: landmarks, line and shading. The base model stays as it is.

    python -m assets.mini_faces.data --shards 0:40           # the pictures; two processes, two ranges
    python -m assets.mini_controlnets.train latents --part 0:2          # and --part 1:2 beside it
    python -m assets.mini_controlnets.train others           # people beside whom a visitor's person is learnt
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_controlnets.train landmarks --minutes 18
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_controlnets.train line --minutes 9
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_controlnets.train shading --minutes 9

Seed 0. On a CPU one thread a process is faster than two threads in one; with a GPU, ``--device cuda`` and no torchrun. Each stage
resumes from ``data/runs`` after a kill and writes its part of ``assets/mini_controlnets`` in float16; where no checkpoint is left, it
goes on from the weights in the folder (delete them to start anew). Maps are made by ``controlnets.control_map``, as in the studio, of
pictures that are mirrored half of the time; points and width err as a detector's do. Velocity is predicted on the base's own 1,000 levels.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from assets.lab import training
from assets.mini_faces import data
from assets.mini_faces.train import validation
from assets.mini_sdxl import train as sdxl
from pipelines.models import controlnets, faces, sdxl_tiny
from pipelines.models.faces import LABELS, OF_A_FACE
from pipelines.worlds import portrait

HERE = Path(__file__).parent
BASE = HERE.parent / "mini_sdxl"
DATA, RUNS = Path("data"), Path("data/runs")
SEED = 0
NETS = ("landmarks", "line", "shading")
SHARDS = 40
"""Shards of faces that the ControlNets learn from."""
CAPTIONS = 2
"""Wordings kept of each picture's caption."""
NO_CAPTION, NO_MAP = 0.1, 0.1
"""Shares of training pictures without a caption (for guidance) and with a black map."""
CONDITIONING = (16, 32, 64)
"""Widths of the map's encoder: one more entry would reduce it once more than the autoencoder does, and sizes would not fit."""


# ------------------------------------------------------------------------------------------ base model


@dataclass
class Base:
    """The shipped model, frozen."""

    unet: Any
    vae: Any
    tokenizer: Any
    teacher: Any
    signal: Tensor
    """Share of signal at each of the 1,000 levels."""


def load_base(device: str) -> Base:
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
    vae = AutoencoderTiny.from_pretrained(BASE / "vae", torch_dtype=torch.float32)
    texts = (
        kind.from_pretrained(BASE / part, dtype=torch.float32)
        for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
    )
    teacher = sdxl.TextTeacher(*texts)  # its read-outs are new; only the embeddings are used
    for part in (unet, vae, teacher):
        part.to(device).eval().requires_grad_(False)
    scheduler = DDIMScheduler(**sdxl_tiny.sampler(sdxl_tiny.BETA_STEPS))
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    return Base(unet, vae, tokenizer, teacher, scheduler.alphas_cumprod.to(device))


def new_controlnet(unet):
    """A ControlNet with the base's encoder and closed doors: until it is trained it changes nothing.

    As its class initialises it, the map's encoder ends in zeros too, and learns nothing before the doors have opened without it. Here
    it starts open: the doors alone keep the base as it was.
    """
    torch.manual_seed(SEED)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONDITIONING)
    nn.init.xavier_normal_(net.controlnet_cond_embedding.conv_out.weight)
    return net


def time_ids(count: int, device: str) -> Tensor:
    """The size conditioning of a whole picture, as in the base's training."""
    size = float(sdxl_tiny.SIZE)
    return torch.tensor([size, size, 0.0, 0.0, size, size], device=device).expand(count, -1)


def predicted(
    unet, net, noisy: Tensor, levels: Tensor, states: Tensor, pooled: Tensor, maps: Tensor | None, device: str
) -> Tensor:
    """Velocity (B, 4, 32, 32) for maps (B, 3, 128, 128) in [0, 1]; without maps that of the base alone."""
    added = {"text_embeds": pooled, "time_ids": time_ids(len(noisy), device)}
    with training.autocast(device):
        residuals: dict[str, Any] = {}
        if maps is not None:
            down, middle = net(noisy, levels, states, controlnet_cond=maps, added_cond_kwargs=added, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(noisy, levels, states, added_cond_kwargs=added, **residuals).sample.float()


# --------------------------------------------------------------------------------------------- latents


def mark(base: Base) -> str:
    """Hash over the weights that decide latents and embeddings."""
    parts = [*base.vae.encoder.parameters(), *base.teacher.first.parameters(), *base.teacher.second.parameters()]
    return hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in parts)).hexdigest()


@torch.no_grad()
def encoded(table: dict[str, NDArray], base: Base, device: str) -> dict[str, Tensor]:
    """Scaled latents (N, 2, 4, 32, 32) of pictures and of their mirror images, prompt embeddings (N, C, T, D) and pooled (N, C, P)."""
    images = torch.from_numpy(table["images"]).permute(0, 3, 1, 2)
    both = torch.stack((images, images.flip(-1)), 1).flatten(0, 1)
    latents = [base.vae.encode(part.to(device).float() / 127.5 - 1).latents.cpu() for part in both.split(25)]
    captions = []
    for identity, shot in zip(table["identity"].tolist(), table["shot"].tolist(), strict=True):
        rng = random.Random(f"caption {SEED} {identity} {shot}")
        captions += [portrait.caption(data.person(identity, shot), rng) for _ in range(CAPTIONS)]
    ids = sdxl.tokens(base.tokenizer, captions).to(device)
    states, pooled = zip(*(base.teacher.embed(part) for part in ids.split(100)), strict=True)
    return {
        "latents": (torch.cat(latents) * base.vae.config.scaling_factor).unflatten(0, (-1, 2)).half(),
        "states": torch.cat(states).cpu().unflatten(0, (-1, CAPTIONS)).half(),
        "pooled": torch.cat(pooled).cpu().unflatten(0, (-1, CAPTIONS)).half(),
    }


def write_others(count: int = 64) -> None:
    """Latents and embedded captions of ``count`` people, whom a visitor's training sees beside the person's own pictures."""
    paths = [path for path in (latents_path(shard) for shard in range(SHARDS)) if path.exists()]
    if not paths:
        raise FileNotFoundError(f"no latents in {DATA}: run `python -m assets.mini_controlnets.train latents` first")
    people = data.SHOTS * torch.arange(-(-count // len(paths)))
    parts = [torch.load(path, weights_only=True) for path in paths]
    kept = {
        "latents": torch.cat([part["latents"][people, 0] for part in parts])[:count],
        "states": torch.cat([part["states"][people, 0] for part in parts])[:count],
        "pooled": torch.cat([part["pooled"][people, 0] for part in parts])[:count],
    }
    save_file({name: value.contiguous() for name, value in kept.items()}, HERE / "others.safetensors")
    note("others", {"people": count})


def latents_path(shard: int) -> Path:
    return DATA / f"controlnet-{shard:03d}.pt"


def make_latents(part: str, device: str) -> None:
    """Encode every shard of faces that is there; shards that exist for these weights are skipped."""
    first, stride = (int(number) for number in part.split(":"))
    base = load_base(device)
    known = mark(base)
    for shard in range(first, SHARDS, stride):
        source, target = data.path(DATA, shard), latents_path(shard)
        if not source.exists() or (
            target.exists() and torch.load(target, weights_only=True, mmap=True)["mark"] == known
        ):
            continue
        with numpy.load(source) as file:
            table = {name: file[name] for name in ("images", "identity", "shot")}
        scratch = target.with_suffix(f".{first}.tmp")
        torch.save({"mark": known, **encoded(table, base, device)}, scratch)
        scratch.rename(target)
        print(target, flush=True)


def box_widths(labels: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """Width in pixels of the face in each picture's labels (N, H, W), as the parser's box has it."""
    columns = numpy.isin(labels, [LABELS.index(name) for name in OF_A_FACE]).any(1)
    size = columns.shape[1]
    spans = size - columns.argmax(1) - columns[:, ::-1].argmax(1)
    return numpy.where(columns.any(1), spans, 0).astype(numpy.float32)


def load_rows(base: Base) -> dict[str, Any]:
    """Everything about the encoded pictures, joined: arrays of the shards and tensors of :func:`encoded`."""
    known, arrays, tensors = mark(base), [], []
    for shard in range(SHARDS):
        if not latents_path(shard).exists():
            continue
        stored = torch.load(latents_path(shard), weights_only=True)
        if stored.pop("mark") != known:
            raise RuntimeError(f"{latents_path(shard)} belongs to other base weights: run the stage latents again")
        with numpy.load(data.path(DATA, shard)) as file:
            arrays.append({"images": file["images"], "points": file["points"], "widths": box_widths(file["labels"])})
        tensors.append(stored)
    if not arrays:
        raise FileNotFoundError(f"no latents in {DATA}: run `python -m assets.mini_controlnets.train latents` first")
    joined: dict[str, Any] = {name: numpy.concatenate([part[name] for part in arrays]) for name in arrays[0]}
    return joined | {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}


# -------------------------------------------------------------------------------------------- training


def map_of(
    reads: str, picture: NDArray, points: NDArray, width: float, mirror: bool, rng: numpy.random.Generator | None
) -> NDArray[numpy.uint8]:
    """A row's control map, of its mirror image when asked; with ``rng`` points and width are a little off."""
    if mirror:
        picture = numpy.ascontiguousarray(picture[:, ::-1])
        points = (points * (-1, 1) + (picture.shape[1], 0))[faces.MIRRORED]
    if rng is not None:
        points, width = points + rng.normal(0, 0.6, points.shape), width * rng.uniform(0.9, 1.1)
    return controlnets.control_map(reads, picture, points, width)


def to_maps(maps: list[NDArray[numpy.uint8]], device: str) -> Tensor:
    """(B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(numpy.stack(maps)).to(device).permute(0, 3, 1, 2).float() / 255


def noised(base: Base, clean: Tensor, number: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, levels, the wanted velocity and the weight of each picture: as in the base's own training."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
    count = len(clean)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    position = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    levels = (position[torch.randperm(count, generator=generator)] * sdxl_tiny.BETA_STEPS).long().to(device)
    share = base.signal[levels].view(-1, 1, 1, 1)
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
    return noisy, levels, velocity, (5 / (share / (1 - share) + 1)).clamp_max(1)


def make_step(name: str, net, base: Base, rows: dict[str, Any], device: str, batch: int) -> Callable[[int], Tensor]:
    """The loss of one training step as a function of its number."""

    def step(number: int) -> Tensor:
        rng = numpy.random.default_rng((SEED, NETS.index(name), number))
        picked = rng.integers(0, len(rows["images"]), batch)
        mirror, wording = rng.integers(0, 2, batch), rng.integers(0, CAPTIONS, batch)
        maps = to_maps(
            [
                map_of(name, rows["images"][i], rows["points"][i], float(rows["widths"][i]), bool(m), rng)
                for i, m in zip(picked, mirror, strict=True)
            ],
            device,
        )
        maps = maps * torch.from_numpy(rng.random(batch) >= NO_MAP).to(device).view(-1, 1, 1, 1)
        said = torch.from_numpy(rng.random(batch) >= NO_CAPTION).float().to(device)
        states = rows["states"][picked, wording].to(device).float() * said.view(-1, 1, 1)
        pooled = rows["pooled"][picked, wording].to(device).float() * said.view(-1, 1)
        clean = rows["latents"][picked, mirror].to(device).float()
        noisy, levels, velocity, weight = noised(base, clean, number, device)
        found = predicted(base.unet, net, noisy, levels, states, pooled, maps, device)
        return (weight * (found - velocity) ** 2).mean() / weight.mean()

    return step


class Check:
    """The loss on held-out people with the map, with a black map and of the base alone, at the same noise."""

    def __init__(self, name: str, base: Base, device: str, count: int = 32) -> None:
        table = {key: value[:: max(1, len(value) // count)][:count] for key, value in validation().items()}
        self.base, self.device, self.rows = base, device, encoded(table, base, device)
        widths = box_widths(table["labels"])
        rows = zip(table["images"], table["points"], widths, strict=True)
        self.maps = to_maps([map_of(name, *row, False, None) for row in rows], device)

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> dict[str, float]:
        rows = {name: part[:, 0].to(self.device).float() for name, part in self.rows.items()}
        noisy, levels, velocity, weight = noised(self.base, rows["latents"], -1 + 2**31, self.device)

        def loss(maps: Tensor | None) -> float:
            found = predicted(self.base.unet, net, noisy, levels, rows["states"], rows["pooled"], maps, self.device)
            return round(float((weight * (found - velocity) ** 2).mean() / weight.mean()), 5)

        return {"with map": loss(self.maps), "black map": loss(0 * self.maps), "base alone": loss(None)}


def train_net(name: str, minutes: float, device: str, batch: int = 16) -> None:
    base = load_base(device)
    rows = load_rows(base)
    shipped, earlier = HERE / name, []
    if not (RUNS / f"controlnet-{name}.pt").exists() and shipped.exists():
        print(f"going on from the weights in {shipped}", flush=True)
        net = ControlNetModel.from_pretrained(shipped, torch_dtype=torch.float32)
        run = training.read_json(HERE / "manifest.json").get("training", {}).get(name, {})
        earlier = [*run.pop("earlier", []), run]
    else:
        net = new_controlnet(base.unet)
    net = net.to(device)
    check = Check(name, base, device) if training.rank_and_size()[0] == 0 else None
    net, facts = training.train(
        net,
        make_step(name, net, base, rows, device, batch),
        minutes,
        RUNS / f"controlnet-{name}.pt",
        1e-3,
        SEED,
        report=lambda average: json.dumps(check(average)) if check else "",
        report_every=200,
        weight_decay=1e-3,
        decay=0.995,
    )
    if check is None:
        return
    facts |= {"batch": batch, "pictures": len(rows["images"]), "held out": check(net)}
    save(net, name)
    note(name, facts | ({"earlier": earlier} if earlier else {}))


def save(net: nn.Module, name: str) -> None:
    """Write a ControlNet in float16, in files below 9 MB, and no path of this machine."""
    copy.deepcopy(net).cpu().half().save_pretrained(HERE / name, max_shard_size="9MB")
    path = HERE / name / "config.json"
    settings = json.loads(path.read_text())
    settings.pop("_name_or_path", None)
    training.write_json(path, settings)


def note(stage: str, facts: dict[str, Any]) -> None:
    """Keep what a stage of training says about itself in the manifest, with the hashes of the base it belongs to."""
    told = training.read_json(HERE / "manifest.json").get("training", {})
    news = {**facts, "processes": training.rank_and_size()[1], "seed": SEED}
    unet = {k: v for k, v in training.hashes(BASE).items() if k.startswith("unet/")}
    training.write_manifest(HERE, {"training": {**told, stage: news}, "base": "mini_sdxl", "base sha256": unet})
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("latents", "others", *NETS))
    parser.add_argument("--minutes", type=float, default=10, help="of training in all, over every start")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--part", default="0:1", help="latents only: first shard and stride")
    given = parser.parse_args()
    if given.stage == "latents":
        make_latents(given.part, given.device)
    elif given.stage == "others":
        write_others()
    else:
        train_net(given.stage, given.minutes, given.device)


if __name__ == "__main__":
    main()
