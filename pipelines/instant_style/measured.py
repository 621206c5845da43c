"""What the evaluation says: which attribute is painted in which place. Torch-free; reads ``assets/instant_style/evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.core import asset_files
from pipelines.core.weights import ROOT, manifest
from pipelines.models import sdxl

MEASURED = ROOT / "assets/instant_style/evaluation.json"
ALONE_BAR, OTHERS_BAR = 0.9, 0.1
"""A place carries an attribute where B there changes it in so many pictures, and B in all others in at most so many."""
CARRIES = 0.5
"""From this share on a place is said to paint an attribute."""


def evaluation() -> dict[str, Any]:
    """The record of the evaluation; empty where it is missing."""
    return asset_files.facts(MEASURED, "worlds")


def base_model() -> str:
    """A mark of the weights that are measured: the hash of the first file of the small model's UNet."""
    hashes = asset_files.hashes(manifest(sdxl.FIRST["mini"].source))
    return next((value for name, value in sorted(hashes.items()) if name.startswith("unet/")), "")[:16]


def of_this_model(record: dict[str, Any]) -> bool:
    """Whether the figures are of the weights that the app has now."""
    return record.get("base") == base_model()


def carriers() -> dict[str, str]:
    """Attribute -> the place that paints it, of those that one place paints alone in :data:`CARRIES` or more."""
    found = {}
    for world in evaluation().get("worlds", {}).values():
        for attribute in world["attributes"]:
            place = best(world, attribute)
            if world["alone"][place][attribute]["share"] >= CARRIES:
                found[attribute] = place
    return found


def best(world: Mapping[str, Any], attribute: str) -> str:
    """The place that changes an attribute most often by itself; of equals the one without which the others change it least."""

    def rank(place: str) -> tuple[float, float]:
        return world["alone"][place][attribute]["share"], -world["all others"][place][attribute]["share"]

    return max(sorted(world["alone"]), key=rank)


def bars(world: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Attribute -> the place that paints it, how often it changes there alone and by all others, and whether both bars are met."""
    found = {}
    for name in world["attributes"]:
        place = best(world, name)
        alone, others = world["alone"][place][name], world["all others"][place][name]
        met = alone["of"] > 0 and alone["share"] >= ALONE_BAR and others["share"] <= OTHERS_BAR
        found[name] = {"place": place, "alone": alone, "all others": others, "met": met}
    return found


def painted(place: str) -> list[tuple[str, float]]:
    """(attribute, share) of what is painted in a place, the surest first."""
    shares = [
        (attribute, world["alone"][place][attribute]["share"])
        for world in evaluation().get("worlds", {}).values()
        if place in world["alone"]
        for attribute in world["attributes"]
    ]
    return sorted((one for one in shares if one[1] >= CARRIES), key=lambda one: -one[1])


def claim() -> str:
    """The measured sentence of the evaluation, and whether it is of today's model."""
    return told(evaluation(), base_model(), "Measured on an earlier base model.")


def told(record: Mapping[str, Any], mark: str, earlier: str) -> str:
    """The sentence of a record; followed by ``earlier`` where it is of other weights than those of ``mark``."""
    sentence = str(record.get("claim", "Not measured yet."))
    return sentence if not record or record.get("base") == mark else f"{sentence} {earlier}"
