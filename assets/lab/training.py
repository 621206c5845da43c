"""What the training scripts share: a resumable loop, an averaged copy of the weights, the cached pictures."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from assets.lab import shards


class Pictures:
    """The cached shards of one world, read through the page cache; new shards join at :meth:`refresh`."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.arrays: dict[int, numpy.ndarray] = {}
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.root.glob(f"{self.name}-{shards.SIZE}-*.npy")):
            number = int(path.stem.rsplit("-", 1)[1])
            if number not in self.arrays:
                self.arrays[number] = numpy.load(path, mmap_mode="r")
        self.numbers = sorted(self.arrays)

    def __len__(self) -> int:
        return shards.PER_SHARD * len(self.numbers)

    def seed(self, index: int) -> int:
        """Seed of the scene in picture ``index``."""
        return shards.seeds(self.numbers[index // shards.PER_SHARD])[index % shards.PER_SHARD]

    def picture(self, index: int) -> numpy.ndarray:
        """Picture ``index``, (3, 128, 128) uint8."""
        return self.arrays[self.numbers[index // shards.PER_SHARD]][index % shards.PER_SHARD]


class Average:
    """Exponential moving average of a module's weights, with the usual short memory at the start."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model, self.decay, self.steps = copy.deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        # Not the state dict, which names tied weights twice.
        for mine, theirs in zip(_numbers(self.model), _numbers(model), strict=True):
            mine.lerp_(theirs, weight) if mine.is_floating_point() else mine.copy_(theirs)


def _numbers(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbours, across and down: where outlines live."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def noised(
    clean: Tensor,
    signal: Tensor,
    generator: torch.Generator,
    spread: Callable[[Tensor], Tensor] = lambda position: position,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents (B, C, H, W) with noise, its levels (B), the velocities that a model should say, and the weights of their errors (B, 1, 1, 1).

    ``signal``: share of signal at each level, where ``clean`` is. ``spread`` moves the positions of the levels, in [0, 1).
    """
    batch = len(clean)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    # One level in each of `batch` equal slices: the same distribution with less variance.
    position = spread((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch)
    steps = (position[torch.randperm(batch, generator=generator)] * len(signal)).long().to(clean.device)
    share = signal[steps].view(-1, 1, 1, 1)
    # Full weight where the layout is decided; where only grain is left, at most that of min-SNR-5 (arXiv 2303.09556).
    weight = (5 / (share / (1 - share) + 1)).clamp_max(1)
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    return noisy, steps, share.sqrt() * noise - (1 - share).sqrt() * clean, weight


def autocast(device: str):
    """bfloat16 where matrix work gains from it; weights and losses stay float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; joins the group when started by torchrun or accelerate launch."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return int(os.environ.get("RANK", "0")), size


def turn(number: int) -> int:
    """Which of this process's batches the one of a ``number`` is. What is done now and then goes by it: every number of a second process is odd."""
    return number // rank_and_size()[1]


def _share_gradients(model: nn.Module, elapsed: float) -> float:
    """Average the gradients over all processes; everybody gets the first one's clock, so that all stop together."""
    rank, size = rank_and_size()
    if size == 1:
        return elapsed
    wanted = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
    clock = grads[0].new_tensor([elapsed if rank == 0 else 0.0])
    flat = torch.cat([*(g.flatten() for g in grads), clock])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(wanted, flat[:-1].div_(size).split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat[-1].item()


class _Run:
    """How far a training is; what :func:`train` needs to go on is kept in the file ``checkpoint``, and read from it at first."""

    def __init__(self, model: nn.Module, average: Average, optimiser: torch.optim.Optimizer, checkpoint: Path) -> None:
        self.model, self.average, self.optimiser, self.checkpoint = model, average, optimiser, checkpoint
        self.done, self.spent, self.loss = 0, 0.0, None
        self.started = self.saved = time.monotonic()
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=next(model.parameters()).device, weights_only=True)
            model.load_state_dict(state["model"])
            average.model.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            self.done, self.spent, self.loss = state["step"], state["spent"], state.get("loss")
            average.steps = self.done
            print(f"resuming at step {self.done}, {self.spent / 60:.1f} min", flush=True)

    def elapsed(self) -> float:
        """Seconds of training, over every start."""
        return self.spent + time.monotonic() - self.started

    def count(self, loss: float) -> None:
        self.done += 1
        self.loss = loss if self.loss is None else self.loss + 0.02 * (loss - self.loss)

    def save(self, every: float = 0.0) -> None:
        """Write the checkpoint, by rename, unless that was less than ``every`` seconds ago."""
        if time.monotonic() - self.saved < every:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.checkpoint.with_suffix(f".{os.getpid()}.tmp")
        state = {"model": self.model.state_dict(), "average": self.average.model.state_dict()}
        state |= {
            "optimiser": self.optimiser.state_dict(),
            "step": self.done,
            "spent": self.elapsed(),
            "loss": self.loss,
        }
        torch.save(state, scratch)
        scratch.rename(self.checkpoint)
        self.saved = time.monotonic()


def train(
    model: nn.Module,
    step: Callable[[int], Tensor],
    minutes: float,
    checkpoint: Path,
    learning_rate: float,
    seed: int,
    warmup: int = 100,
    decay: float = 0.999,
    weight_decay: float = 0.01,
    report: Callable[[nn.Module], str] | None = None,
    report_every: int = 500,
    clip: float = 1.0,
) -> tuple[nn.Module, dict[str, float]]:
    """Run AdamW for ``minutes`` of compute in all, over as many starts as it takes; returns the averaged model.

    The learning rate follows a cosine over the time budget. State goes to ``checkpoint`` every two minutes
    and at the end, by rename, so that a kill at any moment loses at most two minutes. ``step(n)`` returns the
    loss of step ``n`` and must draw its randomness from ``n`` (a resumed run then sees the same batches).
    Under ``torchrun`` or ``accelerate launch`` the processes share gradients; process ``r`` of ``k`` gets the step
    numbers ``k n + r``, so each sees batches of its own.
    """
    rank, size = rank_and_size()
    torch.manual_seed(seed)
    average = Average(model, decay)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    run = _Run(model, average, optimiser, checkpoint)
    budget = minutes * 60
    model.train()
    now = run.elapsed()
    while now < budget:
        fallen = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * now / budget))
        rate = learning_rate * min(1.0, (run.done + 1) / warmup) * fallen
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = step(run.done * size + rank)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        now = _share_gradients(model, run.elapsed())
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        if torch.isfinite(norm):  # one broken batch must not end a long run
            optimiser.step()
            average.update(model)
        run.count(loss.item())
        if rank != 0:
            continue
        if run.done % 50 == 0:
            print(f"step {run.done} loss {run.loss:.4f} lr {rate:.2e} {now / 60:.1f}/{minutes:g} min", flush=True)
        if report and run.done % report_every == 0:
            print(f"  {report(average.model)}", flush=True)
            model.train()
        run.save(every=120)
    if rank == 0:
        run.save()
    loss = None if run.loss is None else round(run.loss, 5)
    return average.model, {"steps": run.done, "minutes": round(run.elapsed() / 60, 1), "loss": loss}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every weights file below ``folder``, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors"})
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def settings_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the settings and words that a model is loaded with, by relative path: a changed one changes what it draws."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".jinja", ".txt"} and p.name not in MEASURED)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


MEASURED = ("manifest.json", "evaluation.json", "model_index.json")


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty when there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_manifest(folder: Path, news: dict[str, object]) -> None:
    """Merge ``news`` into ``folder/manifest.json`` and renew hashes and sizes of the weights beside it."""
    path = folder / "manifest.json"
    facts = read_json(path)
    found = hashes(folder)
    sizes = {name: (folder / name).stat().st_size for name in found}
    write_json(path, {**facts, **news, "sha256": found, "settings sha256": settings_hashes(folder), "bytes": sizes})
