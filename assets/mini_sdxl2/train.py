"""Train the UNet of the second generation, over as many machines as it takes.

    python -m assets.mini_sdxl2.data --shards 0:20              # pictures; more may come while training runs
    python -m assets.mini_sdxl2.train latents                   # encode them (training takes in what has come, too)
    python -m assets.mini_sdxl2.train unet --minutes 120        # goes on from the committed state, if there is one
    python -m assets.mini_sdxl2.train export                    # weights, while or after it trains
    python -m assets.mini_sdxl2.train state                     # the state to commit, once, at the end of a machine
    python -m assets.mini_sdxl2.train state --later             # the same, but the shipped UNet stays, until
    python -m assets.mini_sdxl2.train ship                      # what stands on it can be measured anew

Seed 0. One process of one thread; with a second free core, ``torchrun --nproc-per-node 2`` shares the gradients. Every
stage may be killed and started again. ``unet`` resumes from ``data/runs2/unet.pt``; on a machine without that file, from
``assets/mini_sdxl2/unet`` (the average, float16) and ``assets/mini_sdxl2/state`` (what training needs beyond it).

The learning rate is held, so that nobody has to know when the run ends; the average's memory is a fixed share of the
run. ``--cool 0.2`` lets the rate fall over the last fifth of the minutes: for the very last run.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assets.lab import training
from assets.mini_sdxl import train as first_generation
from assets.mini_sdxl2 import data, models, optimisers, states
from assets.mini_sdxl2.autoencoder import SEED, WORLDS, Shards
from assets.mini_sdxl2.loop import Average, Progress, Schedule, autocast, learn
from pipelines.models import sdxl_tiny
from pipelines.worlds import tabletop
from pipelines.worlds.portrait import words

HERE = Path(__file__).parent
RUNS = Path("data/runs2")
STATE = HERE / "state"
CUBE = data.TRUTHS["tabletop"].index("cube")
THINGS = {
    "tabletop": [data.TRUTHS["tabletop"].index(shape) for shape in tabletop.SHAPES],
    "portrait": [data.TRUTHS["portrait"].index(part) for part in ("face", "glasses", "beard")],
}
MIDDLE = (0.1, 0.55)
"""Of all noise levels, those in which shapes are decided: above them only floor, backdrop and colour are, below them texture."""


# ------------------------------------------------------------------------------------------ latents


def load_autoencoder(folder: Path = HERE / "vae"):
    model = AutoencoderDC.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


class Latents:
    """Scaled latents of every shard, each picture and its mirror image, encoded once and kept beside the pictures.

    A share ``cubes`` of what is drawn of tabletop scenes is drawn from those with a cube; a share ``brief`` of the portraits' captions says
    few things (:func:`pipelines.worlds.portrait.words.brief`).
    """

    def __init__(self, vae: nn.Module, root: Path = data.ROOT, cubes: float = 0.0, brief: float = 0.0) -> None:
        self.vae, self.root, self.cubes, self.brief = vae, root, cubes, brief
        self.with_cubes: list[tuple[int, int]] = []
        weights = b"".join(p.detach().cpu().numpy().tobytes() for p in vae.encoder.parameters())
        self.mark = hashlib.sha256(weights).hexdigest()
        self.shards = {name: Shards(name, root) for name in WORLDS}
        self.rows: dict[tuple[str, int], Tensor] = {}
        self.known: dict[str, list[int]] = {name: [] for name in WORLDS}

    @torch.no_grad()
    def encode(self, pictures: numpy.ndarray) -> Tensor:
        """Scaled latents (N, 16, 16, 16), float16, of pictures (N, 3, 256, 256), uint8."""
        parts = []
        for start in range(0, len(pictures), 10):
            image = torch.from_numpy(pictures[start : start + 10].copy()).to(self.vae.device).float() / 127.5 - 1
            with autocast(image.device.type):
                latents = self.vae.encode(image.contiguous(memory_format=torch.channels_last)).latent.float()
            parts.append(latents.cpu() * self.vae.config.scaling_factor)
        return torch.cat(parts).half()

    def refresh(self, most: int = 10**6) -> None:
        """Take in shards that have come since, at most ``most`` of each world that were never encoded."""
        for name, shards in self.shards.items():
            shards.refresh()
            fresh = 0
            for shard in shards.shards:
                if (name, shard) in self.rows:
                    continue
                path = self.root / f"{name}-latents-{shard:04d}.pt"
                stored = torch.load(path, weights_only=True) if path.exists() else None
                if stored is None or stored["mark"] != self.mark:
                    if fresh == most:
                        continue
                    fresh += 1
                    pictures = shards.pictures[shard]
                    both = torch.cat((self.encode(pictures), self.encode(pictures[..., ::-1])))
                    stored = {"mark": self.mark, "latents": both}
                    scratch = path.with_suffix(f".{os.getpid()}.tmp")
                    torch.save(stored, scratch)
                    scratch.rename(path)
                self.rows[name, shard] = stored["latents"]
                self.known[name].append(shard)
                if name == "tabletop":
                    seen = shards.maps[shard][:, CUBE].max((1, 2)) > 127
                    self.with_cubes += [(shard, int(place)) for place in numpy.flatnonzero(seen)]

    def draw(self, name: str, rng: random.Random) -> tuple[Tensor, Tensor, str]:
        """Latent (16, 16, 16), truth maps (12, 16, 16) in [0, 1] and a caption of one picture or mirror image."""
        latent, words, (shard, place, mirror) = self.draw_at(name, rng)
        maps = torch.from_numpy(self.shards[name].maps[shard][place].copy()).float() / 255
        return latent, data.mirrored_maps(maps) if mirror else maps, words

    def draw_at(self, name: str, rng: random.Random) -> tuple[Tensor, str, tuple[int, int, bool]]:
        """Latent and caption, and which they are of: shard, place in it, and whether it is the mirror image."""
        shard, mirror = rng.choice(self.known[name]), rng.random() < 0.5
        place = rng.randrange(len(self.rows[name, shard]) // 2)  # the mirror images are the second half
        if name == "tabletop" and self.cubes and rng.random() < self.cubes:
            shard, place = rng.choice(self.with_cubes)
        latent = self.rows[name, shard][place + len(self.rows[name, shard]) // 2 * mirror].float()
        return latent, caption(name, shard, place, mirror, rng, self.brief), (shard, place, mirror)


def caption(name: str, shard: int, place: int, mirror: bool, rng: random.Random, brief: float = 0.0) -> str:
    """A caption, drawn anew, of picture ``place`` of a shard, or of its mirror image, in which left is right."""
    scene = data.scene(name, data.seeds(shard)[place])
    if name == "portrait" and brief and rng.random() < brief:
        return words.brief(scene, rng)
    # A portrait's caption says nothing of left and right.
    scene = scene.mirrored() if mirror and name == "tabletop" else scene
    return data.WORLDS[name].caption(scene, rng)


# --------------------------------------------------------------------------------------------- UNet


class Student(nn.Module):
    """The UNet and small read-outs of the truth from its middle, which are dropped after training."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.block_out_channels[-1]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 64, 1), nn.SiLU(), nn.Conv2d(64, 12, 1)) for _ in WORLDS
        )

    def forward(self, noisy: Tensor, steps: Tensor, states: Tensor, added: dict) -> tuple[Tensor, Tensor]:
        """Predicted velocity, and what stands before the last block, (B, width, 16, 16)."""
        seen = []
        hook = self.unet.up_blocks[0].register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            predicted = self.unet(noisy, steps, states, added_cond_kwargs=added).sample
        finally:
            hook.remove()
        return predicted, seen[0]

    def truth(self, middle: Tensor, which: Tensor) -> Tensor:
        """What the read-outs say of the truth maps, (B, 12, 16, 16)."""
        return torch.stack([head(middle) for head in self.heads], 1)[
            torch.arange(len(which), device=which.device), which
        ]


def new_student() -> Student:
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(SEED)
    student = Student(models.unet())
    # Plain products of matrices: backward through a CPU's fused attention takes several times as long on 256 cells.
    student.unet.set_attn_processor(AttnProcessor())
    return student


def conditioning(teacher, ids: Tensor, dropped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the pipeline hands the UNet: zeros stand for the empty prompt, as in SDXL."""
    keep = (~dropped).float()
    with torch.no_grad(), autocast(ids.device.type):
        embedded, pooled = teacher.embed(ids)
    size = float(models.SIZE)
    time_ids = torch.tensor([size, size, 0.0, 0.0, size, size], device=ids.device).expand(len(ids), -1)
    added = {"text_embeds": pooled.float() * keep.view(-1, 1), "time_ids": time_ids}
    return embedded.float() * keep.view(-1, 1, 1), added


def signal_shares() -> Tensor:
    """Share of signal (alpha-bar) at each of SDXL's 1,000 levels."""
    return DDIMScheduler(**sdxl_tiny.sampler(sdxl_tiny.BETA_STEPS)).alphas_cumprod


def around_the_middle(share: float, position: Tensor) -> Tensor:
    """Positions of noise levels, of which a ``share`` is moved into :data:`MIDDLE` and the rest spread over all."""
    if not share:
        return position
    inside, low, high = position < share, *MIDDLE
    moved = torch.where(inside, low + position / share * (high - low), (position - share) / (1 - share))
    return moved.clamp_(max=1 - 1e-6)


def things_cover(maps: Tensor, kinds: Sequence[int]) -> Tensor:
    """Share of each cell that a solid or what is in a face covers, (B, 1, 16, 16), of truth maps (B, 12, 16, 16) in [0, 1]."""
    rows = [maps[i, THINGS[WORLDS[kind]]].sum(0, keepdim=True) for i, kind in enumerate(kinds)]
    return torch.stack(rows).clamp(max=1)


class Task:
    """One step of diffusion training as a function of its number; :meth:`held_out` is the same on kept pictures."""

    def __init__(
        self,
        student: Student,
        latents: Latents,
        batch: int,
        portraits: float,
        truth: float,
        middle: float = 0.0,
        things: float = 1.0,
    ) -> None:
        self.student, self.latents, self.batch = student, latents, batch
        self.portraits, self.truth, self.middle, self.things = portraits, truth, middle, things
        self.device = str(next(student.parameters()).device)
        self.tokenizer, self.teacher = first_generation.readers(self.device)
        self.signal = signal_shares()

    def __call__(self, number: int) -> Tensor:
        if training.turn(number) % 100 == 0:
            self.latents.refresh(1)
        loss, truth = self.losses(self.student, number, self.batch, self.middle, self.things)
        return loss + self.truth * truth

    def losses(
        self, student: Student, number: int, batch: int, middle: float = 0.0, things: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Of the velocities and of the read-outs. A share ``middle`` of the timesteps is of :data:`MIDDLE`, the rest of all.

        A cell that a solid or a face covers counts ``things`` times as much as one that none does.
        """
        rng = random.Random(f"unet {SEED} {number}")
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        kinds = [int((place + 0.5) / batch < self.portraits) for place in range(batch)]
        rows = [self.latents.draw(WORLDS[kind], rng) for kind in kinds]
        clean, maps, texts = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows]), [r[2] for r in rows]
        clean, maps, signal = (part.to(self.device) for part in (clean, maps, self.signal))
        noisy, steps, velocity, weight = training.noised(clean, signal, generator, partial(around_the_middle, middle))
        dropped = torch.tensor([rng.random() < 0.1 for _ in range(batch)])
        ids = first_generation.tokens(self.tokenizer, texts).to(self.device)
        states, added = conditioning(self.teacher, ids, dropped.to(self.device))
        with autocast(self.device):
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted, middle = student(noisy, steps, states, added)
            said = student.truth(middle, torch.tensor(kinds, device=self.device)).float()
        share = signal[steps].view(-1, 1, 1, 1)
        weight = weight * (1 + (things - 1) * things_cover(maps, kinds))
        loss = (weight * (predicted.float() - velocity) ** 2).mean() / weight.mean()
        # Where hardly anything of the picture is left, the truth cannot be known.
        truth = (share.sqrt() * 4 * (said - maps) ** 2).mean() / share.sqrt().mean()
        return loss, truth


def start(state: Path = STATE, weights: Path = HERE / "unet") -> tuple[Student, Average | None, Progress]:
    """A new student, or the one that an earlier machine left in the repository, with its average and its progress."""
    student = new_student()
    if not (state / "state.json").exists():
        return student, None, Progress()
    average = Average(student)
    unet = UNet2DConditionModel.from_pretrained(weights, torch_dtype=torch.float32)
    average.model.unet.load_state_dict(unet.state_dict())
    average.model.heads.load_state_dict({n: v.float() for n, v in load_file(state / "heads.safetensors").items()})
    model, facts = states.read(state, average.model)
    student.load_state_dict(model)
    average.steps = facts["average_steps"]
    print(f"going on from step {facts['step']}, {facts['samples']:,} samples seen", flush=True)
    return student, average, Progress(facts["step"], facts["samples"], facts["step"], 0.0, facts["loss"])


def train_unet(arguments: argparse.Namespace) -> None:
    checkpoint = RUNS / f"{arguments.name}.pt"
    student, average, progress = start() if arguments.name == "unet" else (new_student(), None, Progress())
    student = student.to(arguments.device, memory_format=torch.channels_last)
    if average:
        average.power = arguments.power
        average.model.to(arguments.device)
    vae = load_autoencoder(arguments.vae).to(arguments.device)
    latents = Latents(vae, cubes=arguments.cubes, brief=arguments.brief)
    latents.refresh(1)
    if arguments.compile:
        student.unet.compile()
    task = Task(
        student, latents, arguments.batch, arguments.portraits, arguments.truth, arguments.middle, arguments.things
    )
    optimiser = {
        "muon": lambda: optimisers.muon(student, arguments.rate),
        "adamw": lambda: torch.optim.AdamW(student.parameters(), arguments.rate, weight_decay=1e-3, betas=(0.9, 0.99)),
    }[arguments.optimiser]()
    schedule = Schedule(
        arguments.minutes,
        arguments.warmup,
        arguments.cool,
        arguments.power,
        arguments.parts,
        report_seconds=arguments.report_seconds,
        clock=time.process_time if arguments.cpu else time.monotonic,
    )
    measure = HeldOut(task)
    average_model, progress = learn(
        student, optimiser, task, schedule, checkpoint, arguments.batch, measure, progress, average
    )
    if training.rank_and_size()[0] == 0:
        facts = (
            {**vars(arguments), "vae": str(arguments.vae)}
            | asdict(progress)
            | {"report": measure(average_model, progress.step)}
        )
        training.write_json(RUNS / f"{arguments.name}.json", facts)
        print(json.dumps(facts))


def _averaged(checkpoint: Path) -> Student:
    student = new_student()
    student.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    return student.eval()


class HeldOut:
    """Loss on pictures of seeds that training never sees, with noise of its own: comparable within one latent space."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.latents = Latents(task.latents.vae, data.ROOT / "held-out")

    @torch.no_grad()
    def __call__(self, student: Student, step: int) -> str:
        for name in WORLDS:
            data.make_shard(name, data.HELD_OUT, self.latents.root)
        self.latents.refresh()
        kept, self.task.latents = self.task.latents, self.latents
        try:
            pairs = [self.task.losses(student.eval(), 10**9 + i, 64) for i in range(2)]
        finally:
            self.task.latents = kept
        loss, truth = (sum(pair[i].item() for pair in pairs) / len(pairs) for i in range(2))
        return f"held out {loss:.4f}, truth {truth:.4f}"


# ------------------------------------------------------------------------------------------- writing


def export(name: str = "unet") -> None:
    """Write the averaged UNet in float16 and the scheduler, from the last checkpoint."""
    progress = torch.load(RUNS / f"{name}.pt", map_location="cpu", weights_only=True)["progress"]
    _export(_averaged(RUNS / f"{name}.pt"), progress)


def _export(student: Student, progress: Mapping[str, Any]) -> None:
    student.unet.half().save_pretrained(HERE / "unet", max_shard_size="9MB")
    DDIMScheduler(**sdxl_tiny.sampler()).save_pretrained(HERE / "scheduler")
    training.write_manifest(HERE, {key: progress[key] for key in ("step", "samples")})


def write_state(name: str = "unet", ship: bool = True) -> None:
    """Write what a new machine needs to go on. With ``ship`` the averaged UNet is shipped; without it the shipped one stays, for as long as
    what stands on the new one has not been measured, and ``state`` holds the average: :func:`ship_state` ships it later."""
    stored = torch.load(RUNS / f"{name}.pt", map_location="cpu", weights_only=True)
    model, average = new_student(), _averaged(RUNS / f"{name}.pt")
    model.load_state_dict(stored["model"])
    if ship:
        export(name)
    else:
        model, average = average, _shipped(average)
    progress = Progress(**stored["progress"])
    machines = training.read_json(STATE / "state.json").get("machines", [])
    this = {"steps": progress.step - progress.first_step, "minutes": round(progress.seconds / 60, 1)}
    facts = {"step": progress.step, "samples": progress.samples, "loss": progress.loss}
    facts |= {"average_steps": stored["average_steps"], "machines": [*machines, this]}
    _write_state(model, average, facts)
    size = sum(path.stat().st_size for path in STATE.iterdir())
    print(f"{size / 1e6:.1f} MB of state at step {progress.step}, {progress.samples:,} samples seen")


def _write_state(model: Student, average: Student, facts: dict[str, Any]) -> None:
    states.write(STATE, model, average, facts)
    save_file({n: v.half().contiguous() for n, v in average.heads.state_dict().items()}, STATE / "heads.safetensors")


def _shipped(student: Student) -> Student:
    """A copy of ``student`` with the shipped UNet."""
    other = copy.deepcopy(student)
    other.unet.load_state_dict(
        UNet2DConditionModel.from_pretrained(HERE / "unet", torch_dtype=torch.float32).state_dict()
    )
    return other


def ship_state() -> None:
    """Make the UNet of ``state`` the shipped one."""
    student, _average, progress = start(STATE, HERE / "unet")
    _export(copy.deepcopy(student), asdict(progress))
    _write_state(student, _shipped(student), training.read_json(STATE / "state.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("latents", "unet", "export", "state", "ship"))
    parser.add_argument("--later", action="store_true", help="with state: ship nothing yet")
    parser.add_argument("--minutes", type=float, default=60, help="of training on this machine, over every start")
    parser.add_argument("--name", default="unet", help="another name is a trial: it starts anew and is not shipped")
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--parts", type=int, default=1, help="batches whose gradients make one step")
    parser.add_argument(
        "--compile", action="store_true", help="two to three minutes before the first step, a third less for each"
    )
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--cool", type=float, default=0.0)
    parser.add_argument("--power", type=float, default=12.0)
    parser.add_argument("--portraits", type=float, default=0.5, help="share of portraits")
    parser.add_argument(
        "--cubes", type=float, default=0.0, help="share of the tabletop scenes drawn from those with a cube"
    )
    parser.add_argument("--brief", type=float, default=0.0, help="share of the portraits' captions that say few things")
    parser.add_argument("--middle", type=float, default=0.0, help="share of the middle noise levels, beside their own")
    parser.add_argument(
        "--things", type=float, default=1.0, help="how much more the cells of solids and faces count than the rest"
    )
    parser.add_argument("--truth", type=float, default=0.5, help="weight of the truth read-outs; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vae", type=Path, default=HERE / "vae")
    parser.add_argument("--cpu", action="store_true", help="minutes are of the processor, not of the clock")
    parser.add_argument("--report-seconds", type=float, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "latents":
        Latents(load_autoencoder().to(arguments.device)).refresh()
    elif arguments.stage == "unet":
        train_unet(arguments)
    elif arguments.stage == "state":
        write_state(arguments.name, not arguments.later)
    elif arguments.stage == "ship":
        ship_state()
    else:
        export(arguments.name)


if __name__ == "__main__":
    main()
