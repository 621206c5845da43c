"""Teach mini-sdxl to hear a picture: its image encoder, and an IP-Adapter (arXiv 2308.06721) in diffusers' form.

    export OMP_NUM_THREADS=1 PYTHONPATH=.
    python -m assets.mini_sdxl2.data --shards 26:39             # pictures of both worlds, 256 pixels
    python -m assets.mini_ip_adapter.train encoder              # 2 minutes of one core: the reward verifier, read out into the text's space
    python -m assets.mini_ip_adapter.train adapter --minutes 30 # of one core; goes on from its checkpoint after a kill
    torchrun --nproc-per-node 2 -m assets.mini_ip_adapter.train adapter --minutes 15 --device cpu    # or cuda

The encoder's projection is a ridge regression from the verifier's features to the pooled embeddings of captions. The adapter learns on the
frozen UNet by its own loss, from pictures that are also what it sees. Two of five samples have their own caption beside the picture, three
of ten none, and three of ten the caption of another picture: so the picture prevails wherever it speaks, and how far it is heard is
decided by the blocks in which it may.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from assets.lab import training
from assets.mini_sdxl import train as first_generation
from assets.mini_sdxl2 import data
from assets.mini_sdxl2.train import caption, signal_shares
from pipelines.core.registry import Registry
from pipelines.models import judges, sdxl, sdxl_tiny
from pipelines.models.controlnets import split_adapter
from pipelines.models.picture_encoder import PictureEncoder

HERE = Path(__file__).parent
RUNS = data.ROOT / "runs-adapter"
SEED, TOKENS, BATCH = 11, 4, 32
RIDGE = 1e-3
OWN, NONE = 0.4, 0.3
"""Shares of samples that have their own caption, and none; the rest have that of another picture."""
TABLETOPS = 0.6
"""Share of samples of the first world."""
UNSEEN = 0.1
"""Share of samples without a picture: what guidance is away from."""


class Pictures:
    """All pictures of the shards at 128 pixels, ``mirrored`` each also the other way round, with what is known of them."""

    def __init__(self, mirrored: bool = False) -> None:
        self.places: list[tuple[str, int, int, bool]] = []
        found = []
        for name in data.WORLDS:
            for path in sorted(data.ROOT.glob(f"{name}-{data.SIZE}-*.npy")):
                shard = int(path.stem.rsplit("-", 1)[1])
                small = torch.from_numpy(numpy.load(path)).float()
                small = F.avg_pool2d(small, 2).round().to(torch.uint8)
                for mirror in (False, True)[: 1 + mirrored]:
                    found.append(small.flip(-1) if mirror else small)
                    self.places += [(name, shard, place, mirror) for place in range(len(small))]
        self.images = torch.cat(found)
        self.first = sum(name == next(iter(data.WORLDS)) for name, *_ in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, size: int = 50):
        """The pictures in order, (size, 3, 128, 128) in [-1, 1]."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size].float() / 127.5 - 1

    def caption(self, index: int, rng: random.Random) -> str:
        return caption(*self.places[index], rng)


class Reader:
    """The frozen text encoders."""

    def __init__(self) -> None:
        self.tokenizer, self.teacher = first_generation.readers("cpu")

    def __call__(self, captions: list[str], dropped: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Captions as the UNet hears them; those ``dropped`` (B) are not said."""
        dropped = torch.zeros(len(captions), dtype=torch.bool) if dropped is None else dropped
        ids = first_generation.tokens(self.tokenizer, captions)
        return first_generation.conditioning(self.teacher, ids, dropped)


@torch.no_grad()
def train_encoder() -> None:
    """Fit the projection; prints how much of the pooled embeddings it explains on pictures kept apart."""
    pictures, read = Pictures(mirrored=True), Reader()
    with Registry("cpu").lease(judges.REWARD) as (verifier,):
        encoder = PictureEncoder(projection_dim=sdxl_tiny.POOLED).eval()
        encoder.begin_as(verifier)
    seen = torch.cat([encoder.features(b) for b in pictures.batches()])
    rng, wanted = random.Random(f"encoder {SEED}"), []
    for start in range(0, len(pictures), 100):
        many = range(start, min(start + 100, len(pictures)))
        wanted.append(read([pictures.caption(index, rng) for index in many])[1]["text_embeds"])
    target = torch.cat(wanted).double()
    kept = torch.tensor([place % 10 == 0 for _, _, place, _ in pictures.places])
    rows = torch.cat((seen.double(), torch.ones(len(seen), 1)), 1)
    learnt = rows[~kept]
    square = learnt.T @ learnt / len(learnt)
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    weights = torch.linalg.solve(square, learnt.T @ target[~kept] / len(learnt))
    missed = ((rows[kept] @ weights - target[kept]) ** 2).sum() / ((target[kept] - target[kept].mean(0)) ** 2).sum()
    encoder.visual_projection.weight.copy_(weights[:-1].T)
    encoder.visual_projection.bias.copy_(weights[-1])
    encoder.half().save_pretrained(HERE / "encoder")
    facts = {"pictures": len(pictures), "explained": round(1 - missed.item(), 4)}
    _note("encoder", facts)


def _note(stage: str, facts: dict[str, object]) -> None:
    known = training.read_json(HERE / "manifest.json").get("training", {})
    training.write_manifest(HERE, {"training": known | {stage: facts}})
    print(json.dumps(facts))


class Adapter(nn.Module):
    """The numbers of an IP-Adapter in a UNet that has one: the picture's tokens, and a key and a value for each cross-attention."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        (self.tokens,) = unet.encoder_hid_proj.image_projection_layers
        heard = [one for one in unet.attn_processors.values() if hasattr(one, "to_k_ip")]
        self.keys = nn.ModuleList([one.to_k_ip[0] for one in heard])
        self.values = nn.ModuleList([one.to_v_ip[0] for one in heard])

    def tensors(self) -> dict[str, Tensor]:
        """As the file of a published adapter has them."""
        project, norm = self.tokens.image_embeds, self.tokens.norm
        found = {"image_proj.proj.weight": project.weight, "image_proj.proj.bias": project.bias}
        found |= {"image_proj.norm.weight": norm.weight, "image_proj.norm.bias": norm.bias}
        for place, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            found |= {f"ip_adapter.{2 * place + 1}.to_k_ip.weight": key.weight}
            found |= {f"ip_adapter.{2 * place + 1}.to_v_ip.weight": value.weight}
        return {name: value.detach().half().contiguous() for name, value in found.items()}


def blank(unet: nn.Module) -> dict[str, dict[str, Tensor]]:
    """An adapter that knows nothing: keys and values begin as those of the words, the tokens as small noise."""
    width, generator = unet.config.cross_attention_dim, torch.Generator().manual_seed(SEED)
    found = {
        "image_proj.proj.weight": torch.randn(TOKENS * width, sdxl_tiny.POOLED, generator=generator) * 0.05,
        "image_proj.proj.bias": torch.randn(TOKENS * width, generator=generator) * 0.5,
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    attentions = [unet.get_submodule(name.rsplit(".", 1)[0]) for name in unet.attn_processors if ".attn2." in name]
    for place, attention in enumerate(attentions):
        found[f"ip_adapter.{2 * place + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        found[f"ip_adapter.{2 * place + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return split_adapter(found)


class Task:
    """One step of training, as a function of its number."""

    def __init__(self, unet: nn.Module, latents: Tensor, seen: Tensor, pictures: Pictures, device: str) -> None:
        self.unet, self.latents, self.seen, self.pictures, self.device = unet, latents, seen, pictures, device
        self.read = Reader()
        self.signal = signal_shares()

    def __call__(self, number: int) -> Tensor:
        rng = random.Random(f"adapter {SEED} {number}")
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        first = self.pictures.first
        rest = len(self.pictures) - first
        rows = [rng.randrange(first) if rng.random() < TABLETOPS else first + rng.randrange(rest) for _ in range(BATCH)]
        others = [rng.randrange(first) if row < first else first + rng.randrange(rest) for row in rows]
        kinds = [rng.random() for _ in rows]
        captions = [
            self.pictures.caption(row if kind < OWN else other, rng)
            for row, other, kind in zip(rows, others, kinds, strict=True)
        ]
        states, added = self.read(captions, torch.tensor([OWN <= kind < OWN + NONE for kind in kinds]))
        seen = self.seen[rows] * torch.tensor([rng.random() >= UNSEEN for _ in rows]).view(-1, 1)
        noisy, steps, velocity, weight = training.noised(self.latents[rows].float(), self.signal, generator)
        added = {name: one.to(self.device) for name, one in added.items()}
        added["image_embeds"] = [seen[:, None].to(self.device)]
        noisy, steps, states = (one.to(self.device) for one in (noisy, steps, states))
        with training.autocast(self.device):
            predicted = self.unet(noisy, steps, states, added_cond_kwargs=added).sample.float().cpu()
        return (weight * (predicted - velocity) ** 2).mean() / weight.mean()


def train_adapter(minutes: float, device: str) -> None:
    torch.manual_seed(SEED)
    pictures, base = Pictures(), sdxl.FIRST["mini"].named
    encoder = PictureEncoder.from_pretrained(HERE / "encoder").float().eval()
    with Registry("cpu").lease(base["unet"], base["vae"]) as (unet, vae), torch.no_grad():
        seen = torch.cat([encoder(b).image_embeds for b in pictures.batches()])
        vae, scale = vae.to(memory_format=torch.channels_last), vae.config.scaling_factor
        with training.autocast("cpu"):
            found = [vae.encode(b).latents for b in pictures.batches()]
        latents = (torch.cat(found).float() * scale).half()
    print(f"{len(pictures):,} pictures", flush=True)
    unet._load_ip_adapter_weights([blank(unet)])
    unet.to(device).requires_grad_(False)
    adapter = Adapter(unet).float().requires_grad_(True)
    task = Task(unet, latents, seen, pictures, device)
    average, facts = training.train(adapter, task, minutes, RUNS / "adapter.pt", 1e-3, SEED, weight_decay=1e-3)
    if training.rank_and_size()[0] == 0:
        (HERE / "adapter").mkdir(exist_ok=True)
        save_file(average.tensors(), HERE / "adapter/ip-adapter.safetensors")
        facts |= {"pictures": len(pictures), "batch": BATCH, "processes": training.rank_and_size()[1]}
        _note("adapter", facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("encoder", "adapter"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "encoder":
        train_encoder()
    else:
        train_adapter(arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
