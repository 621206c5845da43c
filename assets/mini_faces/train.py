"""Train the face models of the small set from rendered portraits: the identity embedder and the face parser.

    python -m assets.mini_faces.data --shards 0:80           # two processes, two ranges
    python -m assets.lab.shards --world tabletop --shards 13:24    # pictures without a face, for the parser
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_faces.train embedder --minutes 6
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_faces.train parser --minutes 25
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_faces.evaluate --write

Seed 0. On a CPU one thread a process is faster than two threads in one; with a GPU, ``--device cuda`` and no torchrun. Each stage
resumes from ``data/runs`` after a kill and writes its part of ``assets/mini_faces`` in float16. Minutes, steps and scores of what is
shipped are in the manifest and in ``evaluation.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from assets.lab import training
from assets.mini_faces import data, evaluate
from pipelines.models import face_nets
from pipelines.models import faces as face_models
from pipelines.models.faces import ALIGNED, LABELS, STRIDE

HERE = Path(__file__).parent
DATA, RUNS = Path("data"), Path("data/runs")
SEED = 0
SIZE = data.SIZE

MARGIN, SCALE, RAMP = 0.25, 20.0, 800
"""Of the cosine softmax (arXiv 1801.09414): what is taken off the right cosine, the scale, and the steps over which the first grows."""
AROUND = 10
"""Pixels kept around an aligned face, for shifts and turns."""
SWAPPED = 0.25
"""Share of faces that get another person's surroundings: a pasted face has to be known in the reference's hair."""
CLASS_WEIGHTS = (0.5, 1.0, 1.0, 2.0, 1.0, 2.5, 1.5)
"""Of :data:`LABELS`: glasses cover a hundredth of a picture, the background half of it."""
EMPTY = 3
"""Every so many-th picture of the parser shows no face."""
SPREAD = 1.0
"""Deviation of a point's heat map, in cells."""
HEAT, PLACE = 0.25, 0.1
"""Weights of the heat maps' cross entropy and of the distance between found and true points (in cells)."""


def to_unit(pictures: NDArray[numpy.uint8], device: str) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255


def generator_of(stage: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((SEED * 10 + stage) * 100_000_007 + number)


def drawn(generator: torch.Generator, count: int) -> Callable[[float, float], Tensor]:
    """A function that draws (count,) uniform numbers."""
    return lambda low, high: low + (high - low) * torch.rand(count, generator=generator)


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light, colour, blur and grain at random, for images (B, 3, H, W) in [0, 1]: drawn pictures are never as crisp as renders."""
    count, _, height, width = images.shape
    uniform = drawn(generator, count)
    shape, device = (count, 1, 1, 1), images.device
    gain = torch.rand(count, 3, 1, 1, generator=generator) * 0.3 + 0.85
    gain = gain * (1 - 0.5 * uniform(0, 1) ** 3).view(shape)
    images = images * gain.to(device)
    # Light that falls off across the picture, in a colour of its own.
    angle = uniform(0, 2 * math.pi).view(shape)
    across, down = torch.linspace(-1, 1, width).view(1, 1, 1, -1), torch.linspace(-1, 1, height).view(1, 1, -1, 1)
    slope = (across * angle.cos() + down * angle.sin()) * torch.rand(count, 3, 1, 1, generator=generator)
    images = images * (1 + 0.3 * slope * (uniform(0, 1) < 0.5).view(shape)).to(device)
    soft = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    images = images.lerp(soft, (uniform(-0.8, 0.9).clamp(0)).view(shape).to(device))
    grain = torch.randn(images.shape, generator=generator) * (0.05 * uniform(-0.5, 1).clamp(0)).view(shape)
    level = uniform(-0.06, 0.06).view(shape)
    return (images + (grain + level).to(device)).clamp(0, 1)


def save(model: nn.Module, part: str) -> None:
    """Write one part in float16, and no path of this machine; a plain from_pretrained gives float32."""
    copy.deepcopy(model).half().save_pretrained(HERE / part)
    path = HERE / part / "config.json"
    settings = json.loads(path.read_text())
    settings.pop("_name_or_path", None)
    if "dtype" in settings:
        settings["dtype"] = "float32"
    training.write_json(path, settings)


def note(stage: str, facts: dict[str, Any]) -> None:
    """Keep what a stage of training says about itself in the manifest."""
    told = training.read_json(HERE / "manifest.json").get("training", {})
    news = {**facts, "processes": training.rank_and_size()[1], "seed": SEED}
    training.write_manifest(HERE, {"training": {**told, stage: news}})
    print(json.dumps(facts), flush=True)


def validation(people: int = 40, shots: int = 4) -> dict[str, NDArray]:
    """Renders of people of the stream ``validation``, drawn once and kept beside the shards."""
    path = DATA / f"faces-validation-{people}-{shots}.npz"
    if not path.exists():
        scratch = path.with_suffix(f".{training.rank_and_size()[0]}.tmp")
        with scratch.open("wb") as file:
            numpy.savez(file, **data.render_rows(evaluate.people("validation", people, shots)))
        scratch.rename(path)
    with numpy.load(path) as file:
        return {name: file[name] for name in file.files}


# ------------------------------------------------------------------------------------------- embedder


class Teacher(nn.Module):
    """The embedder with one direction for each person of the training."""

    def __init__(self, network: nn.Module, people: int) -> None:
        super().__init__()
        self.network = network
        self.people = nn.Parameter(torch.randn(people, face_models.EMBEDDING) * 0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Cosines (B, people) between pictures and people."""
        return self.network(images) @ F.normalize(self.people, dim=1).T


def margin_loss(cosines: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Cosine softmax in which the right person's cosine must lead by ``margin``."""
    led = cosines - margin * F.one_hot(wanted, cosines.shape[1])
    return F.cross_entropy(SCALE * led, wanted)


def aligned_faces(table: dict[str, NDArray]) -> NDArray[numpy.uint8]:
    """Every row's face on the template, with :data:`AROUND` more pixels all around, (N, 116, 116, 3)."""
    rows = zip(table["images"], table["points"], strict=True)
    return numpy.stack([face_models.aligned(picture, points, margin=AROUND) for picture, points in rows])


def oval() -> Tensor:
    """Soft mask (96, 96) of the face in an aligned picture."""
    rows, columns = torch.meshgrid(torch.arange(ALIGNED) + 0.5, torch.arange(ALIGNED) + 0.5, indexing="ij")
    distance = (((columns - 48) / 34) ** 2 + ((rows - 56) / 39) ** 2).sqrt()
    return ((1 - distance) * 8 + 0.5).clamp(0, 1)


def moved(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Faces (B, 3, 96, 96) cut out of (B, 3, 116, 116) as if their points had been found not quite rightly; half are mirrored.

    A mirrored person is the same person: the parting alone would tell, and fine-tuning mirrors its pictures too.
    """
    count = len(faces)
    uniform = drawn(generator, count)
    angle, scale = uniform(-0.07, 0.07), uniform(0.94, 1.06) * ALIGNED / (ALIGNED + 2 * AROUND)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = mirror * scale * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = torch.stack((uniform(-0.04, 0.04), uniform(-0.04, 0.04)), 1)
    grid = F.affine_grid(theta.to(faces.device), [count, 3, ALIGNED, ALIGNED], align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def train_embedder(minutes: float, device: str, batch: int = 96) -> None:
    torch.manual_seed(SEED)
    faces = data.Faces(DATA)
    pictures = aligned_faces({name: faces[name] for name in ("images", "points")})
    people, persons = numpy.unique(faces["identity"], return_inverse=True)
    model = Teacher(face_nets.FaceEmbedderNetwork(), len(people)).to(device, memory_format=torch.channels_last)
    shape = oval().to(device)
    held, size = validation(), training.rank_and_size()[1]
    checks = [face[AROUND:-AROUND, AROUND:-AROUND] for face in aligned_faces(held)]

    def step(number: int) -> Tensor:
        generator = generator_of(1, number)
        rows = torch.randint(len(pictures), (batch,), generator=generator).numpy()
        images = moved(to_unit(pictures[rows], device), generator)
        swap = (torch.rand(batch, generator=generator) < SWAPPED).view(-1, 1, 1, 1).to(device)
        images = torch.where(swap, images.roll(1, 0).lerp(images, shape), images)
        images = worn(images, generator).contiguous(memory_format=torch.channels_last)
        with training.autocast(device):
            cosines = model(images)
        margin = MARGIN * min(1.0, number / size / RAMP)
        return margin_loss(cosines.float(), torch.from_numpy(persons[rows]).to(device), margin)

    def check(average: nn.Module) -> dict[str, float]:
        network = average.network.eval()
        embeddings = face_nets.FaceEmbedder(network).embed_aligned(checks)
        scores, same = evaluate.pairs(embeddings, held["identity"])
        return {
            "equal error rate": round(evaluate.equal_error_rate(scores, same), 4),
            "same": round(float(scores[same].mean()), 3),
            "different": round(float(scores[~same].mean()), 3),
        }

    model, facts = training.train(
        model,
        step,
        minutes,
        RUNS / "faces-embedder.pt",
        3e-3,
        SEED,
        report=lambda average: json.dumps(check(average)),
        report_every=300,
        weight_decay=0.02,
        decay=0.995,
    )
    if training.rank_and_size()[0]:
        return
    facts |= {"people": len(people), "pictures": len(pictures), **check(model)}
    save(model.network.cpu(), "embedder")
    note("embedder", facts)


# --------------------------------------------------------------------------------------------- parser


@dataclass
class Views:
    """B training pictures of the parser."""

    images: Tensor
    """(B, 3, 128, 128) in [0, 1]."""
    labels: Tensor
    """(B, 64, 64) long: places in :data:`LABELS`, at every second pixel."""
    points: Tensor
    """(B, 2, 5, 2) in pixels: of one face, or of two side by side."""
    counted: Tensor
    """(B, 2, 5) bool: the point is there and within the picture."""


def placed(points: Tensor, scale: Tensor, angle: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Points (B, 5, 2) in pixels after the move that :func:`view` makes."""
    across, down = (2 * points / SIZE - 1 - source[:, None]).unbind(-1)
    cos, sin = (scale * angle.cos())[:, None], (scale * angle.sin())[:, None]
    moved_to = torch.stack((cos * across - sin * down, sin * across + cos * down), -1) + target[:, None]
    return (moved_to + 1) * SIZE / 2


def view(planes: Tensor, side: int, scale: Tensor, angle: Tensor, target: Tensor, source: Tensor, mode: str) -> Tensor:
    """Pictures (B, C, 128, 128) enlarged by ``scale``, turned by ``angle`` and moved so that ``source`` comes to ``target``
    ((B, 2) from -1 to 1), at ``side`` pixels; beyond the border its pixels go on."""
    cos, sin = angle.cos() / scale, angle.sin() / scale
    theta = torch.stack((torch.stack((cos, sin), 1), torch.stack((-sin, cos), 1)), 1)
    offset = source - (theta @ target[:, :, None])[:, :, 0]
    theta = torch.cat((theta, offset[:, :, None]), 2).to(planes.device)
    grid = F.affine_grid(theta, [len(planes), planes.shape[1], side, side], align_corners=False)
    return F.grid_sample(planes, grid, mode=mode, padding_mode="border", align_corners=False)


def views(table: dict[str, NDArray] | data.Faces, rows: NDArray, generator: torch.Generator, device: str) -> Views:
    """Rows of shards, at many sizes, places and angles.

    Of ten pictures four are framed as the parser frames a face that it looks at closely, four lie anywhere, two show two people.
    """
    count = len(rows)
    uniform = drawn(generator, count)
    images = to_unit(table["images"][rows], device)
    labels = torch.from_numpy(table["labels"][rows]).to(device)[:, None].float()
    points = torch.from_numpy(table["points"][rows])
    source = 2 * points.mean(1) / SIZE - 1
    kind = torch.rand(count, generator=generator)
    close, pair = kind < 0.4, kind > 0.8
    scale = torch.exp(uniform(math.log(0.35), math.log(1.8)))
    scale = torch.where(close, uniform(0.8, 1.3), torch.where(pair, uniform(0.3, 0.6), scale))
    reach = torch.where(close, torch.tensor(0.15), (1 - 0.3 * scale).clamp(min=0.3))
    target = torch.stack((uniform(-1, 1), uniform(-1, 1)), 1) * reach[:, None]
    half = torch.where(torch.rand(count, generator=generator) < 0.5, -0.5, 0.5)
    target[:, 0] = torch.where(pair, half + uniform(-0.12, 0.12), target[:, 0])
    angle = uniform(-0.5, 0.5)

    def seen(order: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = torch.where(pair, scale[order].clamp(0.3, 0.6), scale[order])
        move = (size, angle[order], at, source[order])
        shown = view(images[order.to(device)], SIZE, *move, "bilinear")
        named = view(labels[order.to(device)], SIZE // 2, *move, "nearest")
        return shown, named, placed(points[order], *move)

    own = torch.arange(count)
    shown, named, where = seen(own, target)
    # The second person is the neighbour in the batch, in the other half; her size is her own.
    other_shown, other_named, other_where = seen(own.roll(1), torch.stack((-half, uniform(-0.4, 0.4)), 1))

    def beside(first: Tensor, second: Tensor) -> Tensor:
        left = torch.arange(first.shape[-1], device=device) < first.shape[-1] // 2
        mine = (left[None] == (half < 0).to(device)[:, None]) | ~pair.to(device)[:, None]
        return torch.where(mine[:, None, None], first, second)

    both = torch.stack((where, other_where), 1)
    inside = ((both > 0) & (both < SIZE)).all(-1)
    own_half = (both[..., 0] < SIZE / 2) == (torch.stack((half, -half), 1) < 0)[:, :, None]
    there = torch.stack((torch.ones(count, dtype=torch.bool), pair), 1)[:, :, None]
    counted = inside & there & (own_half | ~pair[:, None, None])
    return Views(
        worn(beside(shown, other_shown), generator),
        beside(named, other_named)[:, 0].round().long(),
        both.to(device),
        counted.to(device),
    )


def noise_fields(count: int, rng: numpy.random.Generator) -> NDArray[numpy.float32]:
    """Textures (count, 128, 128, 3) in [0, 1]: noise whose spectrum falls by a power of its own, in mixed colours."""
    found = numpy.empty((count, SIZE, SIZE, 3), numpy.float32)
    rows, columns = numpy.fft.fftfreq(SIZE)[:, None], numpy.fft.rfftfreq(SIZE)[None]
    length = numpy.maximum(numpy.hypot(rows, columns), 1 / SIZE)
    for place in range(count):
        spectrum = numpy.fft.rfft2(rng.normal(size=(3, SIZE, SIZE))) / length ** rng.uniform(0.3, 2.5)
        field = numpy.fft.irfft2(spectrum, (SIZE, SIZE)).transpose(1, 2, 0)
        field = (field - field.mean((0, 1))) / field.std((0, 1))
        colours = rng.normal(size=(3, 3))
        if rng.random() < 0.6:  # most of what is photographed is nearly grey
            colours = rng.normal(size=(3, 1)) + 0.2 * colours
        mixed = field @ colours * rng.uniform(0.03, 0.2) + rng.uniform(0.1, 0.9, 3)
        found[place] = mixed.clip(0, 1)
    return found


def drawings(count: int, rng: numpy.random.Generator) -> NDArray[numpy.float32]:
    """Ellipses, boxes and strokes in plain colours over one another, (count, 128, 128, 3) in [0, 1]."""
    found = numpy.empty((count, SIZE, SIZE, 3), numpy.float32)
    for place in range(count):
        canvas = numpy.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), numpy.uint8)
        for _ in range(rng.integers(1, 16)):
            colour, at = tuple(map(int, rng.integers(0, 256, 3))), tuple(map(int, rng.integers(0, SIZE, 2)))
            kind, size = rng.integers(3), rng.integers(3, 70, 2)
            if kind == 0:
                cv2.ellipse(
                    canvas, at, tuple(map(int, size)), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA
                )
            elif kind == 1:
                cv2.rectangle(canvas, at, (at[0] + int(size[0]), at[1] + int(size[1])), colour, -1)
            else:
                to = tuple(map(int, rng.integers(0, SIZE, 2)))
                cv2.line(canvas, at, to, colour, int(rng.integers(1, 9)), cv2.LINE_AA)
        found[place] = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 3))).astype(numpy.float32) / 255
    return found


def without_faces(count: int, tables: Sequence[NDArray], number: int, generator: torch.Generator) -> Tensor:
    """Pictures (count, 3, 128, 128) in [0, 1] that show no face: tabletop scenes (``tables``: (N, 3, 128, 128) uint8 arrays), textures,
    drawings, and mixtures of them, in any colours. Without such pictures a parser finds a face in everything."""
    rng = numpy.random.default_rng((SEED, 77, number))
    kinds = [noise_fields(count, rng), drawings(count, rng)]
    if tables:
        table = tables[int(rng.integers(len(tables)))]
        scenes = to_unit(table[rng.integers(0, len(table), count)].transpose(0, 2, 3, 1), "cpu")
        uniform = drawn(generator, count)
        aside = torch.stack((uniform(-0.5, 0.5), uniform(-0.5, 0.5)), 1)
        scale, angle = torch.exp(uniform(math.log(0.8), math.log(3))), uniform(-math.pi, math.pi)
        seen = view(scenes, SIZE, scale, angle, torch.zeros(count, 2), aside, "bilinear")
        kinds += 2 * [seen.permute(0, 2, 3, 1).numpy()]
    first, second = (
        numpy.stack([kinds[k][n] for n, k in enumerate(rng.integers(0, len(kinds), count))]) for _ in range(2)
    )
    mask = noise_fields(count, rng)[..., :1]
    share = numpy.clip(4 * (mask - 0.5) + 0.5, 0, 1) * (rng.random((count, 1, 1, 1)) < 0.5)
    mixed = first + share * (second - first)
    mixed = numpy.stack([one[..., rng.permutation(3)] for one in mixed])
    turned = rng.random((count, 1, 1, 1)) < 0.3
    return torch.from_numpy(numpy.where(turned, 1 - mixed, mixed).astype(numpy.float32)).permute(0, 3, 1, 2)


def and_without(wanted: Views, empty: Tensor) -> Views:
    """The views with their last ones replaced by pictures (N, 3, 128, 128) that show no face."""
    count, kept = len(empty), len(wanted.images) - len(empty)
    images = torch.cat((wanted.images[:kept], empty.to(wanted.images)))
    labels, points, counted = (part.clone() for part in (wanted.labels, wanted.points, wanted.counted))
    labels[-count:], points[-count:], counted[-count:] = LABELS.index("background"), 0, False
    return Views(images, labels, points, counted)


def heat_maps(points: Tensor, counted: Tensor, cells: int) -> Tensor:
    """Wanted shares (B, 5, cells, cells): a round hill at each point, of sum 1, or 0 where there is no point."""
    centres = (torch.arange(cells, device=points.device) + 0.5) * STRIDE
    across, down = (
        torch.exp(-(((points[..., axis, None] - centres) / STRIDE) ** 2) / (2 * SPREAD**2)) for axis in range(2)
    )
    hills = (down[..., :, None] * across[..., None, :]) * counted[..., None, None]
    hills = hills.sum(1)
    return hills / hills.sum((-2, -1), keepdim=True).clamp(min=1e-6)


def parser_loss(parts: Tensor, heat: Tensor, wanted: Views) -> Tensor:
    """Cross entropy of labels and heat maps, and the distance of the points where there is one face."""
    weights = torch.tensor(CLASS_WEIGHTS, device=parts.device)
    grown = F.interpolate(parts.float(), wanted.labels.shape[-2:], mode="bilinear", align_corners=False)
    named = F.cross_entropy(grown, wanted.labels, weights)
    hills = heat_maps(wanted.points, wanted.counted, heat.shape[-1]).flatten(2)
    known = wanted.counted.any(1).float()
    missed = -(hills * heat.float().flatten(2).log_softmax(-1)).sum(-1)
    # What the hill itself is uncertain about is no error.
    missed = missed + (hills * hills.clamp(min=1e-9).log()).sum(-1)
    single = known * ~wanted.counted[:, 1].any(1, keepdim=True)
    apart = (face_nets.expected_places(heat.float()) - wanted.points[:, 0]).norm(dim=-1) / STRIDE
    hit = (missed * known).sum() / known.sum().clamp(min=1)
    near = (apart * single).sum() / single.sum().clamp(min=1)
    return named + HEAT * hit + PLACE * near


@torch.no_grad()
def parser_check(network: nn.Module, held: dict[str, NDArray], empty: Tensor, most: int = 80) -> dict[str, float]:
    """Share of faces found rightly and the mean error of their points on held-out renders; share of ``empty`` pictures with a face."""
    parser = face_nets.FaceParser(network.eval())
    right, errors = [], []
    for picture, points, outline in zip(*(held[name][:most] for name in ("images", "points", "outline")), strict=True):
        faces = parser.detect(picture)
        right.append(evaluate.found_rightly(faces, points, outline))
        if face := evaluate.nearest(faces, points):
            errors.append(float(evaluate.point_error(face.points, points, outline).mean()))
    mean = round(float(numpy.mean(errors)), 3) if errors else math.nan
    pictures = (255 * empty).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    alarms = round(float(numpy.mean([bool(parser.detect(picture)) for picture in pictures[:most]])), 4)
    return {"found": round(float(numpy.mean(right)), 4), "false alarms": alarms, "point error, % of the width": mean}


def train_parser(minutes: float, device: str, batch: int = 24) -> None:
    torch.manual_seed(SEED)
    faces, held = data.Faces(DATA), validation()
    model = face_nets.parser_network().to(device)
    # The first is kept for the checks.
    tables = [numpy.load(path, mmap_mode="r") for path in sorted(DATA.glob(f"tabletop-{SIZE}-*.npy"))]
    assert len(LABELS) == len(CLASS_WEIGHTS)
    empty = without_faces(80, tables[:1], 2**31, generator_of(2, -1 + 2**31))

    def step(number: int) -> Tensor:
        if training.turn(number) % 400 == 0:
            faces.refresh()
        generator = generator_of(2, number)
        rows = torch.randint(len(faces), (batch,), generator=generator).numpy()
        wanted = views(faces, rows, generator, device)
        nobody = without_faces(batch // EMPTY, tables[1:], number, generator)
        wanted = and_without(wanted, worn(nobody, generator).to(device))
        with training.autocast(device):
            parts, heat = face_nets.parse(model, wanted.images)
        return parser_loss(parts, heat, wanted)

    model, facts = training.train(
        model,
        step,
        minutes,
        RUNS / "faces-parser.pt",
        3e-3,
        SEED,
        report=lambda average: json.dumps(parser_check(average, held, empty, 40)),
        report_every=400,
        weight_decay=0.01,
        decay=0.995,
    )
    if training.rank_and_size()[0]:
        return
    model = model.cpu()
    facts |= {"pictures": len(faces), **parser_check(model, held, empty)}
    save(model, "parser")
    note("parser", facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = {"embedder": train_embedder, "parser": train_parser}
    parser.add_argument("stage", choices=tuple(stages))
    parser.add_argument("--minutes", type=float, required=True, help="of training in all, over every start")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    stages[given.stage](given.minutes, given.device)


if __name__ == "__main__":
    main()
