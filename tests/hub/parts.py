"""The parts of the full set, read from the code."""

from __future__ import annotations

from pipelines import golden_noise
from pipelines.concept_guidance import vectors
from pipelines.core.weights import ModelSpec
from pipelines.instant_style import picture
from pipelines.megaportrait import parts as portrait
from pipelines.models import controlnets, flux, language, sdxl


def full_set() -> list[ModelSpec]:
    """Everything that a tab of the full set leases, in any of its presets that needs no package of its own; each once."""
    found = [*golden_noise.parts("full").values()]
    for base in sdxl.OTHERS.values():
        found += base.parts
    for mode in ("trained", "instant"):
        for preset in portrait.PRESETS["full"]:
            for lines in controlnets.LINES:
                found += portrait.specs("full", mode, preset, lines=lines).values()
            found += portrait.look_specs("full", mode)
    found += [picture.ENCODER, picture.ADAPTER]
    for specs in flux.FULL.by_preset.values():
        found += specs
    for model in language.MODELS["full"]:
        found += vectors.parts(model).values()
    return list({spec.key: spec for spec in found if spec.dtype not in flux.QUANTISED}.values())
