"""Measure the second generation: do pictures say what the prompts say, and can they be told from renders?

    python -m assets.mini_sdxl2.evaluate --prompts 50 --sheet          # a quick look
    python -m assets.mini_sdxl2.evaluate --prompts 700 --sheet --write # the card: 2,100 pictures
    python -m assets.mini_sdxl2.evaluate --prompts 700 --floor         # renders against other renders
    python -m assets.mini_sdxl2.evaluate --first --prompts 100         # the first generation, by the same measures

Every prompt has a render beside it, of a scene that fulfils it (:func:`scene_of`). Measures:

- attributes that the ``judge`` verifier (nothing was trained against it) reads as asked, with Wilson 95 % intervals;
- kernel and Fréchet distance to the renders in the judge's features, which see 128 pixels;
- C2ST: accuracy of a small network that learns to tell drawn pictures from renders at 64 pixels, on a fifth that it has
  not seen, at its best epoch (0.5: cannot);
- a ridge classifier on block spectra and edge directions at full size, accuracy over six folds of 48 + 48;
- sharpness: the drawn pictures' median gradient energy over the renders'.

Pictures are kept under ``data/evaluation2`` in pieces, so that a kill costs one piece. ``--write`` adds a point to
``curve.json``: every measure over the samples seen in training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from assets.lab import chunks, training
from assets.mini_sdxl.evaluate import KINDS, frechet, kernel_distance, prompts, share
from assets.mini_sdxl2 import fast, models
from pipelines import golden_noise
from pipelines.core.registry import Registry
from pipelines.golden_noise.arms import start_noise
from pipelines.models import judges, sdxl, verifier
from pipelines.worlds import portrait, tabletop
from pipelines.worlds.portrait import clay
from pipelines.worlds.prompts import PortraitRequest, read_prompt

HERE = Path(__file__).parent
KEPT = Path("data/evaluation2")
NOISE_SEED = 750_000_000
CHUNK = 10


# ----------------------------------------------------------------------------------- what to compare


def scene_of(prompt: str, seed: int) -> tabletop.Scene | portrait.Portrait:
    """A scene that fulfils a prompt of our own grammar; everything that it leaves open comes from ``seed``.

    Raises:
        ValueError: no scene with the wanted order in depth is found, which no prompt of the grammar provokes.
    """
    request = read_prompt(prompt)
    if isinstance(request, PortraitRequest):
        fixed = {k: v == "yes" if k in ("glasses", "beard") else v for k, v in request.attributes.items()}
        return portrait.sample(seed, **fixed)
    rng = random.Random(f"scene of {seed}")
    order = list(range(len(request.things)))
    if request.relation == "right" or (request.relation in (None, "front", "behind") and rng.random() < 0.5):
        order.reverse()
    nearer = None
    if request.relation in ("front", "behind"):  # which of the two from the left stands nearer
        nearer = order.index(0 if request.relation == "front" else 1)
    for attempt in range(1000):
        scene = tabletop.sample(seed + 1_000_003 * attempt, len(order))
        if nearer is None or tabletop.attributes(scene)["nearer"][0] == nearer:
            break
    else:
        raise ValueError(f"no scene fulfils {prompt!r} in 1,000 attempts")
    solids = list(scene.solids)
    for place, thing in zip(scene.left_to_right(), (request.things[i] for i in order), strict=True):
        wanted = {"shape": thing.shape, "colour": thing.colour, "finish": thing.finish}
        wanted = {name: value for name, value in wanted.items() if value}
        solids[place] = replace(solids[place], **wanted)
    changes = {"floor": request.floor or scene.floor, "backdrop": request.backdrop or scene.backdrop}
    return replace(scene, solids=tuple(solids), **changes)


def render_of(prompt: str, seed: int, size: int = models.SIZE) -> Tensor:
    """The render (1, 3, size, size) in [0, 1] of :func:`scene_of`."""
    scene = scene_of(prompt, seed)
    with fast.renderer():
        return (tabletop if isinstance(scene, tabletop.Scene) else clay).render([scene], size).image


def open_pipeline(first: bool = False):
    """The pipeline of the second generation from the folder's weights, or of the first."""
    with Registry("cpu").lease(*(sdxl.FIRST["mini"] if first else sdxl.MINI).parts) as parts:
        return sdxl.build(parts)


@torch.inference_mode()
def draw(pipe, texts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
    """One picture a prompt from standard noise, (N, 3, H, W) in [0, 1]."""
    golden = golden_noise.GoldenNoise(pipe, None)
    return golden.draw(start_noise(seeds, pipe), golden.embed(texts), steps, guidance).float()


def pictures(name: str, kind: str, count: int, make) -> Tensor:
    """uint8 (count, 3, H, W) of the first prompts of a kind, made by ``make(texts, places)`` or found."""
    texts = prompts(kind, count)

    def piece(first: int) -> Tensor:
        places = list(range(first, min(first + CHUNK, count)))
        return (make([texts[i] for i in places], places).clamp(0, 1) * 255).round().to(torch.uint8)

    folder = KEPT / name
    label = kind.replace(" ", "-")
    done = chunks.complete(folder, range(0, count, CHUNK), lambda i: f"{label}-{i:05d}-{min(CHUNK, count - i)}", piece)
    return torch.cat([done[first] for first in range(0, count, CHUNK)])


# ------------------------------------------------------------------------------------------ measures


def gradient_energy(images: Tensor) -> Tensor:
    """Mean squared difference between neighbours, (N,), of images (N, 3, H, W) in [0, 1]."""
    return sum(part.square().mean((1, 2, 3)) for part in training.edges(images))


def c2st(drawn: Tensor, real: Tensor, most_epochs: int = 60, patience: int = 8) -> float:
    """Best accuracy, on a fifth kept aside, of a network that tells two sets (N, 3, H, W) apart at 64 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.cat((drawn, real)), (64, 64), mode="bilinear", antialias=True) * 2 - 1
    labels = torch.cat((torch.zeros(len(drawn)), torch.ones(len(real))))
    order = torch.randperm(len(images), generator=generator)
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 96)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 16, 1))
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    best, since = 0.0, 0
    for _ in range(most_epochs):
        model.train()
        for rows in train[torch.randperm(len(train), generator=generator)].split(32):
            batch = images[rows]
            batch = batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch
            loss = F.binary_cross_entropy_with_logits(model(batch)[:, 0], labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            right = ((model.eval()(images[test])[:, 0] > 0) == (labels[test] > 0)).float().mean().item()
        best, since = (right, 0) if right > best else (best, since + 1)
        if since == patience:
            break
    return best


def block_features(images: Tensor) -> Tensor:
    """What spectra and edges look like, (N, 64 + 16): log energy of each frequency of 8 x 8 blocks, edge directions."""
    grey = images.mean(1)
    frequency, place = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    basis = torch.cos(torch.pi * (place + 0.5) * frequency / 8)
    blocks = grey.unfold(1, 8, 8).unfold(2, 8, 8)
    spectra = (basis @ blocks @ basis.T).square().mean((1, 2)).flatten(1)
    across, down = grey.diff(dim=2)[:, :-1], grey.diff(dim=1)[:, :, :-1]
    angle = torch.atan2(down, across).remainder(torch.pi) / torch.pi * 16
    strength = (across.square() + down.square()).sqrt()
    directions = torch.stack(
        [(strength * (angle.long().clamp_max(15) == i)).sum((1, 2)) for i in range(16)], 1
    ) / strength.sum((1, 2)).clamp_min(1e-6).unsqueeze(1)
    return torch.cat(((spectra + 1e-8).log(), directions), 1)


def ridge_accuracy(drawn: Tensor, real: Tensor, folds: int = 6, strength: float = 10.0) -> float:
    """Accuracy over folds of a ridge classifier on :func:`block_features`."""
    features = torch.cat((block_features(drawn), block_features(real))).double()
    labels = torch.cat((-torch.ones(len(drawn)), torch.ones(len(real)))).double()
    fold = torch.arange(len(labels)) % folds
    right = 0
    for index in range(folds):
        train, test = fold != index, fold == index
        mean, deviation = features[train].mean(0), features[train].std(0) + 1e-9
        x, y = (features[train] - mean) / deviation, labels[train]
        weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        right += (((features[test] - mean) / deviation @ weights > 0) == (labels[test] > 0)).sum().item()
    return right / len(labels)


def attributes(judge: verifier.SceneVerifier, kind: str, images: Tensor) -> dict[str, object]:
    """Shares of prompts fully right and of each attribute, as the judge reads them."""
    right, counts = 0, {}
    for text, picture in zip(prompts(kind, len(images)), images.split(1), strict=True):
        (verdicts,) = verifier.judge(judge(picture), read_prompt(text))
        right += verifier.fully_right(verdicts)
        for verdict in verdicts:
            name = verdict.attribute.split(" of the ")[0]
            hits, total = counts.get(name, (0, 0))
            counts[name] = (hits + verdict.right, total + 1)
    return {
        "fully_right": share(right, len(images)),
        "attributes": {name: share(*value) for name, value in sorted(counts.items())},
    }


def compare(judge: verifier.SceneVerifier, drawn: dict[str, Tensor], real: dict[str, Tensor]) -> dict[str, object]:
    """All measures of drawn pictures against renders, each kind -> (N, 3, H, W) in [0, 1]."""

    def spread(found: dict[str, Tensor], most: int) -> Tensor:
        return torch.cat([images[:most] for images in found.values()])

    def features(images: Tensor) -> Tensor:
        return torch.cat([judge.features(part) for part in images.split(64)]).double()

    report: dict[str, object] = {kind: attributes(judge, kind, images) for kind, images in drawn.items()}
    ours, theirs = (spread(found, 10**6) for found in (drawn, real))
    with torch.inference_mode():
        seen, wanted = features(ours), features(theirs)
    report["kernel"], report["frechet"] = round(kernel_distance(seen, wanted), 4), round(frechet(seen, wanted), 3)
    report["c2st"] = round(c2st(ours, theirs), 4)
    report["ridge"] = round(ridge_accuracy(*(spread(found, 16) for found in (drawn, real))), 4)
    ratio = {k: (gradient_energy(drawn[k]).median() / gradient_energy(real[k]).median()).item() for k in drawn}
    report["sharpness"] = {kind: round(value, 3) for kind, value in ratio.items()}
    return report


def sheet(path: Path, drawn: dict[str, Tensor], real: dict[str, Tensor], count: int = 12) -> None:
    """The first pictures of each kind, none left out: a row drawn, below it the renders of the same captions."""
    rows = []
    for kind, images in drawn.items():
        for first in range(0, min(count, len(images)), 6):
            rows += [images[first : first + 6], real[kind][first : first + 6]]
    save_image(make_grid(torch.cat(rows), 6, padding=2), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50, help="per kind")
    parser.add_argument("--steps", type=int, default=sdxl.MINI.steps)
    parser.add_argument("--guidance", type=float, default=sdxl.MINI.guidance)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sheet", action="store_true", help="also write samples.webp, uncurated, beside renders")
    parser.add_argument("--write", action="store_true", help="keep the figures, as evaluation.json and in curve.json")
    parser.add_argument("--floor", action="store_true", help="renders against other renders of the same captions")
    parser.add_argument("--first", action="store_true", help="the first generation, enlarged to 256 pixels")
    arguments = chunks.arguments_of(parser)
    torch.set_num_threads(1)
    started = time.monotonic()
    facts = training.read_json((HERE.parent / "mini_sdxl" if arguments.first else HERE) / "manifest.json")
    key = json.dumps([facts.get("sha256"), arguments.steps, arguments.guidance], sort_keys=True)
    name = "floor" if arguments.floor else hashlib.sha256(key.encode()).hexdigest()[:16]
    pipe = None if arguments.floor else open_pipeline(arguments.first)

    def make(texts: list[str], places: list[int]) -> Tensor:
        if arguments.floor:
            return torch.cat([render_of(text, 640_000 + i) for text, i in zip(texts, places, strict=True)])
        found = draw(pipe, texts, [NOISE_SEED + i for i in places], arguments.steps, arguments.guidance)
        return F.interpolate(found, (models.SIZE,) * 2, mode="bicubic") if arguments.first else found

    def render(texts: list[str], places: list[int]) -> Tensor:
        return torch.cat([render_of(text, 620_000 + i) for text, i in zip(texts, places, strict=True)])

    kinds = arguments.kinds.split(",")
    drawn = {kind: pictures(name, kind, arguments.prompts, make).float() / 255 for kind in kinds}
    real = {kind: pictures("renders", kind, arguments.prompts, render).float() / 255 for kind in kinds}
    if not chunks.is_main():
        return
    if arguments.sheet:
        sheet(HERE / "samples.webp", drawn, real)
    with Registry("cpu").lease(judges.JUDGE) as (judge,):
        report = {"prompts_per_kind": arguments.prompts, "steps": arguments.steps, "guidance": arguments.guidance}
        report |= compare(judge, drawn, real)
    if pipe is not None:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            draw(pipe, prompts("one object", 1), [1], arguments.steps, arguments.guidance)
            times.append(time.perf_counter() - begin)
        report["seconds_for_one_picture"] = round(min(times), 3)
    report["minutes"] = round((time.monotonic() - started) / 60, 1)
    if arguments.write:
        training.write_json(HERE / "evaluation.json", report)
        curve = json.loads((HERE / "curve.json").read_text()) if (HERE / "curve.json").exists() else []
        point = {key: report[key] for key in ("kernel", "frechet", "c2st", "ridge", "sharpness", "prompts_per_kind")}
        point |= {kind: report[kind]["fully_right"]["share"] for kind in kinds} | {"samples": facts.get("samples")}
        (HERE / "curve.json").write_text(json.dumps([*curve, point], indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
