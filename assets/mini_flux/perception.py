"""What mini-flux sees with: its autoencoder and its depth estimator, and how they are taught (``train.py`` runs it)."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from transformers import DepthAnythingForDepthEstimation

from assets.lab import training
from pipelines.core import depth as depth_maps
from pipelines.georemover.stages import IMAGENET_DEVIATION, IMAGENET_MEAN
from pipelines.models import flux_tiny
from pipelines.models.flux_tiny import HEIGHT, WIDTH
from pipelines.worlds import removal

HERE = Path(__file__).parent
DATA, RUNS = Path("data"), Path("data/runs")
SEED = 0
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


def start_vae():
    """A new autoencoder whose outer layers are those of ``mini-sdxl``, which is one level shallower."""
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
        if training.turn(number) % 200 == 0:
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
    return AutoencoderTiny.from_pretrained(HERE / "vae", torch_dtype=torch.float32).to(device).eval()


def save(model, part: str) -> None:
    """Write one part in float16, and no path of this machine."""
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
