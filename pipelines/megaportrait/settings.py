"""What decides a run of MegaPortrait, declared once; and the names of its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from pipelines.core import limits
from pipelines.core.settings import Declared, choice, real, seed, switch, whole
from pipelines.megaportrait import paste
from pipelines.megaportrait.parts import DRAWN, PRESETS, is_taught
from pipelines.models import sdxl

if TYPE_CHECKING:
    from pipelines.core.settings import More

MODES: dict[str, str] = {
    "preview": "Preview without AI models",
    "instant": "Instant, without training",
    DRAWN: "Drawn from the pictures, without training",
    "trained": "Trained person",
    "single": "Trained person, Identity and Shading in one pass",
}


def modes_of(model_set: str) -> dict[str, str]:
    """Those of :data:`MODES` that a model set has."""
    return {mode: words for mode, words in MODES.items() if mode != DRAWN or model_set == "mini"}


REGIONS: dict[str, str] = {"head": "Head with hair and neck", "face": "Face only"}
LINES: dict[str, str] = {
    "canny": "Edges (Canny)",
    "anyline": "Drawing (Anyline; MistoLine, 2.5 GB more)",
}
STARTS: dict[str, str] = {"reference": "The reference's face", "pasted": "The person's nearest picture, pasted"}

REFERENCE, IDENTITY, LAID, SHADED, PASTED, RING, HARMONISED = (
    "Reference",
    "Identity",
    "Laid over",
    "Shaded",
    "Pasted",
    "Ring mask",
    "Harmonised",
)
"""Stages, as :class:`Preview` and :attr:`Candidate.stages` name them."""

NETS = {IDENTITY: "identity", SHADED: "shading", HARMONISED: "harmonise"}
"""The stages that a net paints, and what its settings' names begin with."""


@dataclass(frozen=True)
class Net:
    """How one of the three nets paints: image-to-image from ``strength``, led by ``guidance``, with the person's LoRA at ``lora``."""

    stage: str
    strength: float
    steps: int
    guidance: float
    lora: float
    detail: float

    @property
    def count(self) -> int:
        """Steps that it really takes: image-to-image runs the last part of them only."""
        return min(int(self.steps * self.strength), self.steps)


# ------------------------------------------------------------------------------------------ settings


PUBLISHED: dict[str, Any] = {
    "identity_strength": 0.55, "identity_guidance": 6.0, "identity_lora": 0.9, "shading_lora": 0.8, "line": 0.5, "line_end": 0.6, "colour": 0.5, "colour_end": 0.6,
    "shading_strength": 0.35, "shading_guidance": 6.0, "shading_line": 0.6, "shading_line_end": 0.8, "shading_map": 0.5,
    "shading_map_end": 0.6, "harmonise_guidance": 5.0, "harmonise_smooth": 0.0, "detail": 0.0, "core_back": 0.25,
    "erode": paste.ERODE, "feather": paste.FEATHER,
}  # fmt: skip
"""What sets the full set apart: after EasyPhoto and FaceChain, where those say a number; not tried by us."""


def _share(label: str, default: float, name: str, **more: Unpack[More]) -> Any:
    """A share, of the steps or of what is there: 0 to 1."""
    more.setdefault("step", 0.05)
    return real(label, default, 0.0, 1.0, name=name, **more)


def _steps(label: str, default: int, name: str) -> Any:
    return whole(label, default, 1, 60, name=name)


def _guidance(label: str, default: float, name: str) -> Any:
    return real(label, default, 1.0, 12.0, name=name, step=0.5)


def _lora(label: str, default: float, name: str) -> Any:
    return real(label, default, 0.0, 1.5, name=name, step=0.05)


def _end(label: str, default: float, name: str) -> Any:
    """Up to which share of the steps a ControlNet is followed."""
    return real(label, default, 0.05, 1.0, name=name, step=0.05)


def _edge(label: str, default: float, name: str) -> Any:
    """A length in widths of the face."""
    return real(label, default, 0.0, 0.15, name=name, step=0.01)


@dataclass(frozen=True)
class Settings(Declared):
    """Everything that decides a run but the person and the reference; the same settings give the same pictures, byte for byte, on
    the same machine. Strengths are shares of the steps: 0.55 of 20 steps runs 11; the page offers the safe part of each. The defaults are the
    small set's, found on its validation people: it draws a head worse than the person's own picture shows it, so little is painted and
    fine detail is given back. The full set's are in :data:`PUBLISHED`."""

    mode: str = choice(
        "How",
        "trained",
        MODES,
        name="The mode",
        info="Instant begins with the person’s nearest picture; trained also knows what step 1 learnt; one pass is faster.",
    )
    seed: int = seed(name="seed")
    candidates: int = whole("Candidates", 2, 1, 4, info="The one most like the person is shown first.")
    """From ``seed`` and those that follow it."""
    region: str = choice("What is replaced", "head", REGIONS, name="The region")
    start: str = choice("The Identity Net begins with", "pasted", STARTS, name="The start")
    """Under its noise. EasyPhoto begins with the person's face in the template, too: from the reference's own face, its skin colour
    comes through at every strength below 1."""

    identity_strength: float = _share(
        "Identity strength",
        0.1,
        "identity strength",
        step=0.01,
        offered=(0.05, 0.90),
        info="How much of the pasted head is painted anew: more follows the reference’s pose, less keeps the person’s own picture.",
    )
    identity_steps: int = _steps("Identity steps", 20, "identity steps")
    identity_guidance: float = _guidance("Identity guidance", 1.5, "identity guidance")
    identity_lora: float = _lora("Identity LoRA, how much of the trained person", 1.0, "identity lora")
    landmarks: float = _share("ControlNet: face points and outline", 0.5, "landmarks")
    line: float = _share("ControlNet: lines of what it begins with", 1.0, "line")
    line_end: float = _end("… up to this share of the steps", 1.0, "line end")
    colour: float = _share("ControlNet: blurred colours of what it begins with", 0.8, "colour")
    colour_end: float = _end("… colours up to this share of the steps", 0.8, "colour end")
    """Lines and blurred colours are those of what the net begins with, as in EasyPhoto's first pass: of the reference's own
    they would bring its face along."""

    shading_transfer: float = _share(
        "Light taken over before",
        0.6,
        "shading transfer",
        step=0.01,
        offered=(0.0, 1.0),
        info="0 keeps the light of the person’s pictures.",
    )
    """How far the smooth light of the identity image goes to the reference's before the Shading Net; no network."""
    own_tone: float = _share("Keep the person’s own skin tone", 1.0, "own tone")
    """How far the person's skin keeps its own mean tone meanwhile: 0 takes the reference's, 1 only how light falls on it."""
    shading_strength: float = _share(
        "Shading strength",
        0.13,
        "shading strength",
        step=0.01,
        offered=(0.05, 0.50),
        info="How much is painted anew in the reference’s light: more is softer.",
    )
    shading_steps: int = _steps("Shading steps", 16, "shading steps")
    shading_guidance: float = _guidance("Shading guidance", 1.5, "shading guidance")
    shading_lora: float = _lora("Shading LoRA", 1.0, "shading lora")
    shading_line: float = _share("ControlNet: lines of the identity image", 1.0, "shading line")
    shading_line_end: float = _end("… lines up to this share of the steps", 1.0, "shading line end")
    shading_map: float = _share("ControlNet: light of the reference", 0.8, "shading map")
    shading_map_end: float = _end("… light up to this share of the steps", 1.0, "shading map end")

    erode: float = _edge("Take in the edge, in face widths", 0.02, "erode")
    feather: float = _edge("Soft edge, in face widths", 0.03, "feather")
    poisson: bool = switch(
        "Poisson paste", False, name="poisson", info="Fits the colours at the edge, instead of a soft edge."
    )

    harmonise_strength: float = _share(
        "Harmonization strength",
        0.30,
        "harmonise strength",
        step=0.01,
        offered=(0.15, 0.45),
        info="More hides the seam; too much changes hair and neck.",
    )
    harmonise_steps: int = _steps("Harmonization steps", 14, "harmonise steps")
    harmonise_guidance: float = _guidance("Harmonization guidance", 1.5, "harmonise guidance")
    harmonise_lora: float = _lora("Harmonization LoRA", 0.6, "harmonise lora")
    harmonise_line: float = _share("ControlNet: lines of the paste", 0.8, "harmonise line")
    harmonise_map: float = _share("ControlNet: light of the paste", 0.8, "harmonise map")
    harmonise_smooth: float = _share("Only the change smoother than, in face widths", 0.1, "harmonise smooth")
    """Only what the net changes more smoothly than this share of the face's width is taken: colours and light, not its grain. 0 takes all."""
    detail: float = _share("Fine detail given back after each net", 1.0, "detail")
    """Share of what the autoencoder alone loses of a stage's picture that is given back to what the net painted (FaceChain's detail restoring)."""
    core_back: float = _share("Mix the pasted face back in", 1.0, "core back")
    """Share of the pasted face that is mixed back into the core after harmonising."""

    lines: str = choice("Lines that lead the nets", "canny", LINES, name="The lines")
    """In the full set only: the small one has a line drawing of its own."""
    adapter_scale: float = _share(
        "IP-Adapter, in the instant mode",
        0.6,
        "adapter scale",
        info="How much of the person’s pictures the model is shown.",
    )
    """In the full set's instant mode only (EasyPhoto: 0.6 without a LoRA)."""

    no_identity: bool = switch("the person’s training", False, name="no identity")
    """For comparison: without the trained person."""
    no_shading: bool = switch("Shading Net", False, name="no shading")
    no_harmonisation: bool = switch("Harmonization Net", False, name="no harmonisation")
    model_set: str = choice("Model set", "mini", sdxl.FIRST, shown=False)
    preset: str = ""
    """How the model set is held in memory, of ``parts.PRESETS``; empty: the first."""

    @classmethod
    def of(cls, model_set: str, fast: bool = False) -> Settings:
        """The defaults of a model set, or its faster preset: one candidate and fewer steps."""
        limits.choice("Model set", model_set, sdxl.FIRST)
        steps = (20, 16, 14) if model_set == "mini" else (30, 24, 20)
        if fast:
            steps = (12, 9, 7) if model_set == "mini" else (16, 12, 10)
        made = cls(model_set=model_set, candidates=1 if fast else 2)
        if model_set == "full":
            made = replace(made, region="face", **PUBLISHED)
        counts: dict[str, Any] = {f"{net}_steps": count for net, count in zip(NETS.values(), steps, strict=True)}
        return replace(made, **counts)

    def validated(self) -> Settings:
        checked = super().validated()
        limits.choice("How", checked.mode, modes_of(checked.model_set))
        if self.preset:
            limits.choice("The preset", self.preset, PRESETS[self.model_set])
        return checked

    @property
    def looks(self) -> bool:
        """Whether IP-Adapter shows the person to the model."""
        return self.model_set == "full" and self.mode == "instant" and self.adapter_scale > 0 and not self.no_identity

    @property
    def taught(self) -> bool:
        """Whether the nets are the small ones that are shown the person's pictures (``taught.py``)."""
        return is_taught(self.model_set, self.mode)

    @property
    def wears(self) -> bool:
        """Whether the model wears what was learnt of the person."""
        return self.mode in ("trained", "single") and not self.no_identity

    def net(self, stage: str) -> Net:
        """What is set for one of :data:`NETS`."""
        parts = ("strength", "steps", "guidance", "lora")
        return Net(stage, detail=self.detail, **{part: getattr(self, f"{NETS[stage]}_{part}") for part in parts})

    def effective(self) -> dict[str, int]:
        """Steps that each net really takes, per candidate."""
        off = set(NETS) if self.mode == "preview" else set()
        if self.no_shading or self.mode == "single":
            off.add(SHADED)
        if self.no_harmonisation:
            off.add(HARMONISED)
        return {stage: 0 if stage in off else 1 if self.taught else self.net(stage).count for stage in NETS}
