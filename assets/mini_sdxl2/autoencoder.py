"""Train the autoencoder of the second generation: 256 pixels to 16 x 16 cells of 16 numbers and back.

    python -m assets.mini_sdxl2.autoencoder train --minutes 60    # encoder and decoder
    python -m assets.mini_sdxl2.autoencoder decoder --minutes 60  # the decoder alone, adversarially: latents stay valid
    python -m assets.mini_sdxl2.autoencoder look                  # reconstructions beside the pictures, and their PSNR

Every stage goes on from ``data/runs2`` after a kill, and on a new machine from the weights in ``assets/mini_sdxl2/vae``.

The losses: absolute and squared difference, difference of edges, difference in what the reward verifier and the face
parser see (perceptual). Three more make latents that diffusion learns easily: noise is added to them before they are
decoded; a latent at half the size must decode to the picture at half the size (EQ-VAE, arXiv 2502.09509); and a linear
read-out must tell from them what the renderer knows (parts, normals, depth), which aligns them with the meaning of the
picture (as VA-VAE does with a pretrained encoder, arXiv 2501.01423; here the truth itself teaches).
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image
from transformers import SegformerForSemanticSegmentation

from assets.lab import training
from assets.mini_sdxl2 import data, models, optimisers
from assets.mini_sdxl2.loop import Progress, Schedule, autocast, learn
from pipelines.models.verifier import SceneVerifier

HERE = Path(__file__).parent
RUNS = Path("data/runs2")
SEED = 0
CROP = 128
WORLDS = ("tabletop", "portrait")


class Shards:
    """Pictures and truth maps of one world, read through the page cache; new shards join at :meth:`refresh`."""

    def __init__(self, name: str, root: Path = data.ROOT) -> None:
        self.name, self.root = name, root
        self.pictures: dict[int, numpy.ndarray] = {}
        self.maps: dict[int, numpy.ndarray] = {}
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.root.glob(f"{self.name}-{data.SIZE}-*.npy")):
            shard = int(path.stem.rsplit("-", 1)[1])
            if shard not in self.pictures:
                self.maps[shard] = numpy.load(data.truth_path(self.name, shard, self.root))
                self.pictures[shard] = numpy.load(path, mmap_mode="r")
        self.shards = sorted(self.pictures)

    def __len__(self) -> int:
        return data.PER_SHARD * len(self.shards)

    def get(self, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Picture (3, 256, 256) and truth maps (12, 16, 16), uint8."""
        shard, place = self.shards[index // data.PER_SHARD], index % data.PER_SHARD
        return self.pictures[shard][place], self.maps[shard][place]


def crops(worlds: list[Shards], step: int, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crops (B, 3, size, size) in [-1, 1], their truth maps in [0, 1], and which world each is of (B,) long.

    Every other crop is of a portrait. Crops begin at the edges of cells, half of them are mirrored.
    """
    rng = numpy.random.default_rng((SEED, step))
    pictures, maps, which = [], [], []
    for place in range(batch):
        kind = place % 2 if len(worlds[place % 2]) else 1 - place % 2
        picture, truth = worlds[kind].get(int(rng.integers(len(worlds[kind]))))
        cells = size // models.FACTOR
        top, left = rng.integers(0, models.CELLS - cells + 1, 2)
        rows, columns = top * models.FACTOR, left * models.FACTOR
        picture = torch.from_numpy(picture[:, rows : rows + size, columns : columns + size].copy()).float() / 127.5 - 1
        truth = torch.from_numpy(truth[:, top : top + cells, left : left + cells].copy()).float() / 255
        if rng.random() < 0.5:
            picture, truth = picture.flip(-1), data.mirrored_maps(truth)
        pictures.append(picture)
        maps.append(truth)
        which.append(kind)
    image = torch.stack(pictures).contiguous(memory_format=torch.channels_last)
    return image, torch.stack(maps), torch.tensor(which)


class Perceptual(nn.Module):
    """Distance between pictures in the first stages of the reward verifier and of the face parser, both frozen."""

    def __init__(self) -> None:
        super().__init__()
        verifier = SceneVerifier.from_pretrained("assets/verifier/reward").float().eval()
        parser = SegformerForSemanticSegmentation.from_pretrained("assets/mini_faces/parser").float().eval()
        self.verifier, self.parser = verifier.backbone.requires_grad_(False), parser.segformer.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-length features along channels, of pictures in [-1, 1]."""
        seen = self.verifier(image * 2, output_hidden_states=True).hidden_states[:3]
        parsed = self.parser(image / 2 + 0.5, output_hidden_states=True).hidden_states[:2]
        return [F.normalize(states.float(), dim=1) for states in (*seen, *parsed)]

    def forward(self, drawn: Tensor, image: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(image)
        pairs = zip(self.features(drawn), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()


class WithHeads(nn.Module):
    """The autoencoder with the linear read-outs of the truth, which are dropped after training."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleList(nn.Conv2d(models.CHANNELS, 12, 1) for _ in WORLDS)

    def truth_loss(self, latents: Tensor, maps: Tensor, which: Tensor) -> Tensor:
        read = torch.stack([head(latents) for head in self.heads], 1)[
            torch.arange(len(which), device=which.device), which
        ]
        return F.mse_loss(read.float(), maps)


def against(critic: nn.Module, optimiser: torch.optim.Optimizer, drawn: Tensor, real: Tensor) -> Tensor:
    """One step of a critic by the hinge loss, and then the loss of whoever drew against it."""
    device = drawn.device.type
    with autocast(device):
        judged, true = critic(drawn.detach()).float(), critic(real).float()
    critic_loss = F.relu(1 - true).mean() + F.relu(1 + judged).mean()
    optimiser.zero_grad(set_to_none=True)
    critic_loss.backward()
    optimiser.step()
    critic.requires_grad_(False)
    with autocast(device):
        fooled = -critic(drawn).float().mean()
    critic.requires_grad_(True)
    return fooled


def edges_loss(drawn: Tensor, image: Tensor) -> Tensor:
    pairs = zip(training.edges(drawn), training.edges(image), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()


def start(folder: Path = HERE / "vae") -> nn.Module:
    """The autoencoder in the repository, in float32; a new one where there is none."""
    torch.manual_seed(SEED)
    if (folder / "config.json").exists():
        print(f"going on from {folder}", flush=True)
        return AutoencoderDC.from_pretrained(folder, torch_dtype=torch.float32)
    return models.autoencoder()


def train(minutes: float, rate: float, batch: int, device: str) -> None:
    whole = WithHeads(start()).to(device, memory_format=torch.channels_last)
    perceptual = Perceptual().to(device, memory_format=torch.channels_last)
    worlds = [Shards(world) for world in WORLDS]

    def loss_of_step(number: int) -> Tensor:
        if training.turn(number) % 50 == 0:
            for world in worlds:
                world.refresh()
        image, maps, which = (part.to(device) for part in crops(worlds, number, batch, CROP))
        with autocast(device):
            latents = whole.model.encode(image).latent
            # A share of the latents' own deviation: they cannot escape the noise by growing.
            blur = 0.15 * torch.rand(batch, 1, 1, 1, device=device) * latents.detach().float().std()
            drawn = whole.model.decode(latents + blur * torch.randn_like(latents)).sample.float()
            half = whole.model.decode(F.avg_pool2d(latents, 2)).sample.float()
            seen = perceptual(drawn, image)
        truth = whole.truth_loss(latents.float(), maps, which)
        small = F.avg_pool2d(image, 2)
        loss = (drawn - image).abs().mean() + F.mse_loss(drawn, image) + edges_loss(drawn, image)
        loss = loss + 0.25 * ((half - small).abs().mean() + edges_loss(half, small))
        return loss + 0.1 * seen + 0.5 * truth + 1e-3 * latents.float().square().mean()

    schedule = Schedule(minutes, warmup=50, cool=0.25, power=16, report_seconds=300)
    average, progress = learn(
        whole,
        optimisers.muon(whole, rate),
        loss_of_step,
        schedule,
        RUNS / "autoencoder.pt",
        batch,
        lambda average, _: measure(average.model),
    )
    save(average.model, progress, "autoencoder", fold=True)


class Discriminator(nn.Module):
    """Is each patch of a picture a render's? Four strided convolutions, one answer for every 8 x 8 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.utils.spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Made:
    """What the UNet makes (:mod:`assets.mini_sdxl2.made`), in crops of ``CROP`` pixels, both worlds in turn."""

    def __init__(self, worlds: list[Shards]) -> None:
        self.worlds = worlds
        kept = [torch.load(RUNS / f"made-{world.name}.pt", weights_only=True) for world in worlds]
        self.latents = {kind: [torch.cat([row["latents"] for row in one[kind]]) for one in kept] for kind in kept[0]}
        self.places = [[place for row in one["pairs"] for place in row["places"]] for one in kept]

    def crops(self, kind: str, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, 16, 8, 8), and the pictures (B, 3, 128, 128) in [-1, 1] that they were made of: those of
        "drawn" were made of none, and get any."""
        rng = numpy.random.default_rng((SEED, step, len(kind)))
        cells = CROP // models.FACTOR
        latents, pictures = [], []
        for number in range(batch):
            which = (step + number) % 2
            chosen = int(rng.integers(len(self.latents[kind][which])))
            top, left = rng.integers(0, models.CELLS - cells + 1, 2)
            latents.append(self.latents[kind][which][chosen, :, top : top + cells, left : left + cells].float())
            shard, place, mirror = self.places[which][chosen % len(self.places[which])]
            picture = self.worlds[which].pictures[shard][place]
            picture = picture[..., ::-1] if mirror else picture
            rows, columns = top * models.FACTOR, left * models.FACTOR
            picture = picture[:, rows : rows + CROP, columns : columns + CROP].copy()
            pictures.append(torch.from_numpy(picture).float() / 127.5 - 1)
        image = torch.stack(pictures).contiguous(memory_format=torch.channels_last)
        return torch.stack(latents), image


def train_decoder(minutes: float, rate: float, batch: int, device: str, weight: float) -> None:
    """Train the decoder on, with the encoder frozen, so that latents that were computed stay valid.

    Of each batch a quarter are the encoder's latents, a quarter are pairs of :mod:`~assets.mini_sdxl2.made` (both are to give their
    picture) and half are drawn from noise: they are only to look like a render to a patch discriminator, and to stay what they were
    in blocks of 8 x 8 pixels. The discriminator sees renders of the same place in a picture. It is not kept and starts anew.
    """
    model = start().to(device, memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    before = copy.deepcopy(model.decoder).requires_grad_(False)
    perceptual = Perceptual().to(device, memory_format=torch.channels_last)
    critic = Discriminator().to(device, memory_format=torch.channels_last)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), 4 * rate, betas=(0.5, 0.99))
    worlds = [Shards(world) for world in WORLDS]
    made, scale, quarter = Made(worlds), model.config.scaling_factor, batch // 4
    rim = models.FACTOR  # a crop's border sees no neighbours

    def loss_of_step(number: int) -> Tensor:
        image = crops(worlds, 10**6 + number, quarter, CROP)[0].to(device)
        pairs, of_pairs = made.crops("pairs", number, quarter)
        drawn_latents, like = made.crops("drawn", number, batch - 2 * quarter)
        wanted = torch.cat((image, of_pairs.to(device)))
        with torch.no_grad(), autocast(device):
            latents = torch.cat(
                (model.encode(image).latent.float(), torch.cat((pairs, drawn_latents)).to(device) / scale)
            )
            anchor = before(latents[2 * quarter :]).float()
        with autocast(device):
            everything = model.decode(latents).sample.float()[..., rim:-rim, rim:-rim]
            drawn, free = everything.split((2 * quarter, batch - 2 * quarter))
            wanted, real = (
                wanted[..., rim:-rim, rim:-rim],
                torch.cat((wanted, like.to(device)))[..., rim:-rim, rim:-rim],
            )
            seen = perceptual(drawn, wanted)
        fooled = against(critic, critic_optimiser, everything, real)
        loss = (drawn - wanted).abs().mean() + F.mse_loss(drawn, wanted) + edges_loss(drawn, wanted) + 0.2 * seen
        kept = F.avg_pool2d(free, 8) - F.avg_pool2d(anchor[..., rim:-rim, rim:-rim], 8)
        return loss + kept.abs().mean() + weight * min(1.0, number / 300) * fooled

    optimiser = torch.optim.AdamW(model.decoder.parameters(), rate, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = Schedule(minutes, warmup=50, cool=0.25, power=16, report_seconds=300)
    average, progress = learn(
        model, optimiser, loss_of_step, schedule, RUNS / "decoder.pt", batch, lambda found, _: measure(found)
    )
    save(average, progress, "decoder", fold=False)


@torch.no_grad()
def centre(model: nn.Module, image: Tensor) -> None:
    """Fold mean and spread of the latents into the weights: afterwards every channel has mean 0 and deviation 1 on ``image``.

    Diffusion starts from noise of mean 0 and deviation 1 in every channel. Exact for the encoder; in the decoder but for
    the outermost ring of cells, where padding stands for latents of 0, which the stage ``decoder`` repairs.
    """
    latents = torch.cat([model.encode(part).latent for part in image.split(10)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    last, first = model.encoder.conv_out, model.decoder.conv_in
    last.weight.div_(deviation.view(-1, 1, 1, 1))
    last.bias.sub_(mean).div_(deviation)
    first.bias.add_((first.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3)))
    first.weight.mul_(deviation.view(1, -1, 1, 1))


def save(model: nn.Module, progress: Progress, stage: str, fold: bool) -> None:
    """Write the autoencoder in float16, and the figures of the stage; the first of several processes does."""
    if training.rank_and_size()[0]:
        return
    model = model.float().cpu()
    if fold:
        centre(model, torch.cat([held_out(world, 100) for world in WORLDS]) * 2 - 1)
    half = copy.deepcopy(model).half().to(memory_format=torch.contiguous_format)
    half.save_pretrained(HERE / "vae", max_shard_size="9MB")
    settings = training.read_json(HERE / "vae" / "config.json")
    settings.pop("_name_or_path", None)  # where this machine had it
    training.write_json(HERE / "vae" / "config.json", settings)
    figures = {"steps": progress.step, "minutes": round(progress.seconds / 60, 1), "psnr": measure(model)}
    facts = training.read_json(HERE / "manifest.json").get("training", {})
    training.write_manifest(HERE, {"training": {**facts, stage: [*facts.get(stage, []), figures]}})
    print(json.dumps(figures))


@torch.no_grad()
def measure(model: nn.Module, sheet: Path | None = None, count: int = 12) -> str:
    """PSNR and spread of latents on held-out pictures of each world, whole; ``sheet`` shows them beside the pictures."""
    parts, rows = [], []
    for world in WORLDS:
        image = held_out(world, count).to(model.device) * 2 - 1
        with autocast(model.device.type):
            latents = model.encode(image.contiguous(memory_format=torch.channels_last)).latent
            drawn = model.decode(latents).sample.float().clamp(-1, 1)
        error = (drawn - image).square().mean((1, 2, 3))
        parts.append(f"{world} {(10 * torch.log10(4 / error)).mean():.2f} dB std {latents.float().std():.2f}")
        rows += [image[:6], drawn[:6]]
    if sheet:
        save_image(make_grid(torch.cat(rows) / 2 + 0.5, 6, padding=2), sheet)
    return ", ".join(parts)


def held_out(world: str, count: int) -> Tensor:
    """The first pictures (count, 3, 256, 256) in [0, 1] of the held-out shard, which is made once."""
    root = data.ROOT / "held-out"
    data.make_shard(world, data.HELD_OUT, root)
    pictures = numpy.load(data.picture_path(world, data.HELD_OUT, root), mmap_mode="r")[:count]
    return torch.from_numpy(pictures.copy()).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train", "decoder", "look"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=6e-3, help="of the autoencoder; the decoder alone: 1e-3")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--critic", type=float, default=0.1, help="weight of the decoder's critic")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    how = arguments.minutes, arguments.rate, arguments.batch, arguments.device
    if arguments.stage == "look":
        print(measure(start(), RUNS / "autoencoder.png"))
    elif arguments.stage == "train":
        train(*how)
    else:
        train_decoder(*how, arguments.critic)


if __name__ == "__main__":
    main()
