"""A training loop for runs that go on over many machines: a rate that is held, averages of the weights, small states."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.lab import training
from pipelines.core.weights import multiplies_halves


class Average:
    """An average of a module's weights whose memory is a fixed share of the whole run (arXiv 2312.02696, EDM2)."""

    def __init__(self, model: nn.Module, power: float = 12.0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.power, self.steps = power, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - (1 - 1 / self.steps) ** (self.power + 1)
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, weight)


def autocast(device: str = "cpu"):
    """bfloat16 where it is multiplied in hardware (a GPU, AMX, AVX512), else float32: emulated, it is slower."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu" or multiplies_halves())


@dataclass
class Schedule:
    """How long to train and at which rates.

    Args:
        minutes: of training on this machine in all, over as many starts as it takes.
        warmup: steps over which the learning rate rises, on every machine anew.
        cool: share of the minutes, at their end, over which the rate falls.
        power: memory of the average; a larger one forgets sooner.
        parts: batches whose gradients make one step: what the optimiser costs is shared by them.
        report_seconds: time between two reports.
        save_seconds: time between two checkpoints.
        clock: what the minutes are of; ``time.process_time`` makes trials fair on a machine that others use, too.
    """

    minutes: float
    warmup: int = 100
    cool: float = 0.0
    power: float = 12.0
    parts: int = 1
    report_seconds: float = 300.0
    save_seconds: float = 120.0
    clock: Callable[[], float] = time.monotonic


def rate_share(step: int, seconds: float, budget: float, schedule: Schedule) -> float:
    """Share of the learning rate: rising over the first steps, held, falling over the last ``cool`` of the budget."""
    falling = min(1.0, max(0.0, (budget - seconds) / (schedule.cool * budget))) if schedule.cool else 1.0
    return min(1.0, (step + 1) / schedule.warmup) * (0.02 + 0.98 * falling)


@dataclass
class Progress:
    """Where a run stands. ``step`` and ``samples`` count over all machines, ``first_step`` is this machine's first."""

    step: int = 0
    samples: int = 0
    first_step: int = 0
    seconds: float = 0.0
    loss: float | None = None


def _resumed(path: Path, model: nn.Module, average: Average, optimiser: torch.optim.Optimizer) -> Progress:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    average.model.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    average.steps = state["average_steps"]
    progress = Progress(**state["progress"])
    print(f"resuming at step {progress.step}, {progress.seconds / 60:.1f} min", flush=True)
    return progress


def _save(path: Path, model: nn.Module, average: Average, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    weights = {"model": model.state_dict(), "average": average.model.state_dict()}
    facts = {"average_steps": average.steps, "progress": asdict(progress)}
    torch.save(weights | facts | {"optimiser": optimiser.state_dict()}, scratch)
    scratch.rename(path)


def _noted(path: Path, line: dict[str, object]) -> None:
    print(f"  {json.dumps(line)}", flush=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def learn(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    batch: int,
    report: Callable[[nn.Module, int], str] | None = None,
    progress: Progress | None = None,
    average: Average | None = None,
) -> tuple[nn.Module, Progress]:
    """Train ``model`` in place; returns its average and the progress.

    State goes to ``checkpoint`` every ``save_seconds``, by rename, so that a kill loses at most those. ``loss_of_step(n)``
    draws its randomness from n, so that a resumed run sees the same batches. ``progress`` and ``average`` go on from an
    earlier machine. Under ``torchrun`` the processes share gradients; process r of k gets the numbers ``k n + r`` (with parts, of as many such n).
    """
    rank, processes = training.rank_and_size()
    average = average or Average(model, schedule.power)
    progress = progress or Progress()
    base = [group["lr"] for group in optimiser.param_groups]
    if checkpoint.exists():
        progress = _resumed(checkpoint, model, average, optimiser)
    budget, before, started = schedule.minutes * 60, progress.seconds, schedule.clock()
    saved = reported = time.monotonic()
    model.train()
    while progress.seconds < budget:
        here = progress.step - progress.first_step
        share = rate_share(here, progress.seconds, budget, schedule)
        for group, rate in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = rate * share
        optimiser.zero_grad(set_to_none=True)
        last = 0.0
        for part in range(schedule.parts):
            loss = loss_of_step((progress.step * schedule.parts + part) * processes + rank) / schedule.parts
            loss.backward()
            last += loss.item()
        progress.seconds = training._share_gradients(model, before + schedule.clock() - started)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):  # one broken batch must not end a long run
            optimiser.step()
            average.update(model)
        progress.step += 1
        progress.samples += batch * processes * schedule.parts
        progress.loss = last if progress.loss is None else progress.loss + 0.02 * (last - progress.loss)
        if rank:
            continue
        minutes, now = progress.seconds / 60, time.monotonic()
        if progress.step % 50 == 0:
            told = f"loss {progress.loss:.4f} rate {share:.2f} {minutes:.1f}/{schedule.minutes:g} min"
            print(f"step {progress.step} {told}", flush=True)
        if report and now - reported > schedule.report_seconds:
            line = {"step": progress.step, "samples": progress.samples, "minutes": round(minutes, 1)}
            _noted(checkpoint.with_suffix(".log"), line | {"report": report(average.model, progress.step)})
            model.train()
            reported = time.monotonic()
        if now - saved >= schedule.save_seconds:
            _save(checkpoint, model, average, optimiser, progress)
            saved = time.monotonic()
    if rank == 0:
        _save(checkpoint, model, average, optimiser, progress)
    return average.model, progress
