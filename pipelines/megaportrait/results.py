"""What a run gives: candidates with their stages and measurements, and the files that are made of them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from PIL import Image as Images

from pipelines.core import asset_files, images
from pipelines.core.geometry import Mask, Picture
from pipelines.core.weights import ROOT

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.megaportrait.place import Analysis
    from pipelines.megaportrait.settings import Settings


TAB = "MegaPortrait"


@dataclass
class Candidate:
    """One result and how it came about."""

    seed: int
    result: Image
    """As large as the reference; RGBA where that is transparent somewhere."""
    changed: Mask
    """Pixels of the result that may differ from the reference; all others are equal."""
    stages: dict[str, Picture]
    """Stage -> square; a stage that was left out is missing."""
    core: Mask
    """What was pasted, in the square."""
    metrics: dict[str, Any]
    """JSON-able: identity, seam, light, and the truth where it is known."""

    @property
    def identity(self) -> float | None:
        """Mean similarity to the person's pictures."""
        return self.metrics["identity"]["result"]["mean"]


@dataclass
class Outcome:
    """A finished run; the candidate that is most like the person comes first."""

    settings: Settings
    person: str
    analysis: Analysis
    candidates: list[Candidate]
    steps: dict[str, int]
    """Steps that each net took per candidate."""
    notes: list[str]
    seconds: dict[str, float]
    """Per stage; 0 for what came from the cache."""
    models: list[dict[str, str]]
    truth: Picture | None = None
    controls: dict[str, Picture] = field(default_factory=dict)
    """Control maps of the reference's square."""
    layered: Image | None = None
    """The reference with its transparency, if it has any."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """Of the request's pictures: name, whether it was used, why not, and notes; empty with a saved person."""

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def to_pil(pixels: Picture) -> Image:
    return Images.fromarray(numpy.ascontiguousarray(pixels))


def facts(outcome: Outcome) -> dict[str, Any]:
    """Settings, measurements and what they rest on; JSON-able. No picture and no embedding is in it."""
    analysis = outcome.analysis
    return {
        "ai_generated": True,
        "unofficial": "re-created from the abstract of arXiv 2411.04357; all settings are ours",
        "settings": asdict(outcome.settings),
        "person": outcome.person,
        "reference_size": [analysis.picture.shape[1], analysis.picture.shape[0]],
        "result_size": list(outcome.best.result.size),
        "painted_side": analysis.square.shape[1],
        "enlarged": round(1 / analysis.crop.scale, 2),
        "pictures": outcome.pictures,
        "face_box": [round(number, 1) for number in analysis.face.box],
        "face_detector": analysis.face.backend,
        "steps": outcome.steps,
        "candidates": [{"seed": one.seed, "metrics": one.metrics} for one in outcome.candidates],
        "notes": outcome.notes,
        "seconds": outcome.seconds,
        "models": outcome.models,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    }


def save_result(outcome: Outcome, path: str | Path, number: int = 0) -> Path:
    """A candidate as PNG; its metadata hold the settings and say, in IPTC's words, that a trained model made it."""
    made = outcome.candidates[number]
    settings = {**asdict(outcome.settings), "seed": made.seed, "candidates": 1}
    return images.save_png(made.result, path, settings, tab=TAB, models=[model["key"] for model in outcome.models])


def save_zip(outcome: Outcome, path: str | Path, more: Mapping[str, Any] | None = None) -> Path:
    """Everything of a run in one file: results, stages, masks, control maps, manifest.json; ``more``: for that one."""
    pictures: dict[str, Image] = {
        "reference.png": outcome.layered or to_pil(outcome.analysis.picture),
        "square.png": to_pil(outcome.analysis.square),
    }
    pictures |= {f"control_{name}.png": to_pil(picture) for name, picture in outcome.controls.items()}
    if outcome.truth is not None:
        pictures["truth.png"] = to_pil(outcome.truth)
    for one in outcome.candidates:
        pictures |= {f"{one.seed}_{name.lower().replace(' ', '_')}.png": to_pil(p) for name, p in one.stages.items()}
        pictures[f"{one.seed}_mask.png"] = to_pil(one.changed.astype(numpy.uint8) * 255)
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for number, one in enumerate(outcome.candidates):
            marked = path.with_suffix(f".{one.seed}.png")
            archive.write(save_result(outcome, marked, number), f"{one.seed}_result.png")
            marked.unlink()
        for name, picture in pictures.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(name, data.getvalue())
        archive.writestr("manifest.json", json.dumps({**facts(outcome), **(more or {})}, indent=1))
    return path


MEASURED = ROOT / "assets" / "megaportrait" / "evaluation.json"


def measured() -> dict[str, Any]:
    """What the evaluation of the shipped models found; empty before there was one."""
    return asset_files.facts(MEASURED, "rows")
