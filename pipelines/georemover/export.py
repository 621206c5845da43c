"""A removal's files: what there is to know of it, and everything in one zip."""

from __future__ import annotations

import importlib.metadata
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from pipelines.core import asset_files, masks
from pipelines.core import depth as depth_maps
from pipelines.core.weights import ROOT
from pipelines.georemover import Outcome


def facts(outcome: Outcome) -> dict[str, Any]:
    """Settings, measurements and what they rest on; JSON-able."""
    return {
        "settings": asdict(outcome.settings),
        "original_size": list(outcome.original_size),
        "working_size": [outcome.image.shape[1], outcome.image.shape[0]],
        "depth": outcome.depth_from,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "notes": outcome.notes,
        "seconds": outcome.seconds,
        "models": outcome.models,
        "mask_share": round(masks.area(outcome.mask), 5),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    }


def save_zip(outcome: Outcome, path: str | Path, more: Mapping[str, Any] | None = None) -> Path:
    """Everything of a run in one file: results, composites, mask, depth maps, strips, settings.json; ``more``: for that one."""
    pictures: dict[str, Image.Image] = {
        "input.png": Image.fromarray(outcome.image),
        "mask.png": Image.fromarray(outcome.mask.astype(numpy.uint8) * 255),
        "depth_before.png": Image.fromarray(depth_maps.to_colours(outcome.depth_before)),
        "depth_after.png": Image.fromarray(depth_maps.to_colours(outcome.depth_after)),
        "telea.png": Image.fromarray(outcome.telea),
    }
    if outcome.fill_only is not None:
        pictures["fill_only.png"] = Image.fromarray(outcome.fill_only)
    for number, (seed, result) in enumerate(zip(outcome.seeds, outcome.results, strict=True)):
        pictures[f"result_{seed}.png"] = Image.fromarray(result)
        pictures[f"strip_{seed}.png"] = Image.fromarray(outcome.strips[number])
        pictures[f"composite_{seed}.png"] = outcome.composites[number]
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for name, picture in pictures.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(name, data.getvalue())
        archive.writestr("settings.json", json.dumps({**facts(outcome), **(more or {})}, indent=1))
    return path


MEASURED = ROOT / "assets" / "georemover" / "evaluation.json"


def measured() -> Mapping[str, Any] | None:
    """What the evaluation of the shipped models found, or None before there was one."""
    return asset_files.facts(MEASURED, "rows") or None
