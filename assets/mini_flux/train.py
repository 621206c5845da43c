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
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from assets.lab import training
from assets.mini_flux.examples import Latents, make_latents
from assets.mini_flux.perception import (
    HERE,
    RUNS,
    SEED,
    note,
    save,
    train_depth,
    train_vae,
)
from pipelines.models import flux, flux_parts, flux_tiny
from pipelines.models.flux_tiny import HEIGHT, WIDTH

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


# --------------------------------------------------------------------------------------- autoencoder


# --------------------------------------------------------------------------------------------- depth


# ------------------------------------------------------------------------------------------- latents
# A removal as the fill model sees it, all packed and in float16: what is cached once is not encoded again in every epoch.


# ---------------------------------------------------------------------------------------- fill model


def image_ids(panels: int, device: str) -> Tensor:
    """(panel, row, column) of each token of a strip of our size."""
    return flux_parts.strip_ids(HEIGHT // 16, panels * WIDTH // 16, panels).to(device)


def prompt(device: str) -> tuple[Tensor, Tensor]:
    """The one prompt's embedding and pooled embedding. A constant: there is nothing for a text encoder to say."""
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
        FlowMatchEulerDiscreteScheduler(**flux_tiny.scheduler()).save_pretrained(HERE / "scheduler")
        note("base", facts)


def joined(*panels: Tensor) -> Tensor:
    """Tokens of panels (B, 96, C) side by side, row by row over the strip, (B, 288, C)."""
    rows = [part.view(len(part), HEIGHT // 16, WIDTH // 16, -1) for part in panels]
    return torch.cat(rows, 2).flatten(1, 2)


# ------------------------------------------------------------------------------------------ adapters


def adapted(device: str, rank: int = flux_tiny.RANK, start: Path | None = None):
    """The shipped fill model with an adapter in the published places, fresh or from the folder ``start``; only that is trained."""
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
