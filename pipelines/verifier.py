"""The scene verifier: reads a picture and says, attribute by attribute, whether a prompt was fulfilled.

One network of our own around a transformers backbone, trained on renders whose truth is known
(``assets/verifier/train.py``). Two are shipped: ``reward`` (ResNet) may be used to choose or to teach,
``judge`` (RegNet, other seed) only to evaluate, so that nothing is graded by its own teacher.

A picture is read into a fixed set of heads. Things on the table are read from left to right; a request is
matched to them by its relation ("left of", "in front of", ...), and without one by the better assignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from pipelines.scenes.grammar import BACKDROPS, COLOURS, FINISHES, FLOORS, NO_FINISH, SHAPES, Request
from pipelines.scenes.portrait import words as portrait_words
from pipelines.scenes.prompts import PortraitRequest, read_prompt

SLOTS = 3
PLACES = {
    1: ("the object",),
    2: ("the left object", "the right object"),
    3: ("the left object", "the middle object", "the right object"),
}

HEADS: dict[str, tuple[str, ...]] = {
    "world": ("tabletop", "portrait"),
    "count": ("1", "2", "3"),
    **{
        f"{slot} {name}": values
        for slot in range(SLOTS)
        for name, values in (("shape", SHAPES), ("colour", COLOURS), ("finish", FINISHES))
    },
    **{f"{slot} nearer": ("left", "right") for slot in range(SLOTS - 1)},
    "floor": FLOORS,
    "backdrop": BACKDROPS,
    **portrait_words.ATTRIBUTES,
}
"""Everything that is read from a picture: head -> its answers. "1 colour" is the colour of the second thing from the
left; "0 nearer" says which of the first two things stands nearer to the viewer."""


class SceneVerifier(ModelMixin, ConfigMixin):
    """Backbone plus one linear read-out per head.

    Args:
        architecture: "resnet" (basic blocks) or "regnet" (grouped convolutions).
        widths: channels of the four stages; the picture is reduced by 32.
        size: side of the pictures in pixels; others are resized.
    """

    @register_to_config
    def __init__(
        self, architecture: str = "resnet", widths: Sequence[int] = (32, 64, 96, 128), size: int = 128
    ) -> None:
        super().__init__()
        from transformers import RegNetConfig, RegNetModel, ResNetConfig, ResNetModel

        widths = list(widths)
        if architecture == "resnet":
            config = ResNetConfig(embedding_size=24, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic")
            self.backbone = ResNetModel(config)
        elif architecture == "regnet":
            config = RegNetConfig(
                embedding_size=24, hidden_sizes=widths, depths=[1, 2, 2, 1], groups_width=16, layer_type="x"
            )
            self.backbone = RegNetModel(config)
        else:
            raise ValueError(f"architecture {architecture!r} is unknown: use 'resnet' or 'regnet'")
        self.squeeze = nn.Sequential(
            nn.Conv2d(widths[-1], 64, 1), nn.Flatten(), nn.Linear(64 * (size // 32) ** 2, 192), nn.GELU()
        )
        self.read = nn.ModuleDict({name: nn.Linear(192, len(values)) for name, values in HEADS.items()})

    def features(self, images: Tensor) -> Tensor:
        """What the heads read from: (B, 192), also the space for Fréchet and kernel distances. Images in [0, 1]."""
        size = (self.config.size, self.config.size)
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        states = self.backbone(images * 4 - 2).last_hidden_state
        return self.squeeze(states)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every head for images (B, 3, H, W) in [0, 1]."""
        features = self.features(images)
        return {name: head(features) for name, head in self.read.items()}


@dataclass(frozen=True)
class Verdict:
    """One attribute of a prompt, judged: what was asked, what the verifier sees, how sure it is (0 to 1)."""

    attribute: str
    wanted: str
    seen: str
    confidence: float
    right: bool


def answers(request: Request | PortraitRequest, nearer_first: bool | None = None) -> list[dict[str, str]]:
    """The readings that would fulfil a request: one dict head -> answer per allowed assignment of things to places."""
    if isinstance(request, PortraitRequest):
        return [{"world": "portrait", **request.attributes}]
    count = len(request.things)
    common = {"world": "tabletop"} if count or request.floor or request.backdrop else {}
    common |= {"count": str(count)} if 1 <= count <= SLOTS else {}
    common |= {name: value for name, value in (("floor", request.floor), ("backdrop", request.backdrop)) if value}
    if not 1 <= count <= SLOTS:
        return [common]
    orders = {
        "left": [(0, 1)], "right": [(1, 0)], "row": [tuple(range(count))], "front": [(0, 1), (1, 0)], "behind": [(0, 1), (1, 0)],
    }.get(request.relation or "", list(itertools.permutations(range(count))))  # fmt: skip
    readings = []
    for order in orders:
        wanted = dict(common)
        for slot, index in enumerate(order):
            thing = request.things[index]
            finish = None if thing.colour in NO_FINISH else thing.finish
            fields = (("shape", thing.shape), ("colour", thing.colour), ("finish", finish))
            wanted |= {f"{slot} {name}": value for name, value in fields if value}
        if request.relation in ("front", "behind"):
            first_is_nearer = request.relation == "front"
            wanted["0 nearer"] = "left" if (order[0] == 0) == first_is_nearer else "right"
        readings.append(wanted)
    return list({tuple(sorted(r.items())): r for r in readings}.values())


def log_likelihood(logits: dict[str, Tensor], request: Request | PortraitRequest) -> Tensor:
    """Log-probability (B,) that each picture fulfils the request, best assignment; differentiable: the reward."""
    scores = []
    for wanted in answers(request):
        parts = [logits[h].float().log_softmax(1)[:, HEADS[h].index(v)] for h, v in wanted.items()]
        scores.append(torch.stack(parts).sum(0))
    return torch.stack(scores).amax(0)


def _name(head: str, count: int) -> str:
    slot, _, field = head.partition(" ")
    if not field:
        return {"world": "kind of picture", "count": "number of objects"}.get(head, head.replace("_", " "))
    if field == "nearer":
        return "which object is nearer"
    return f"{field} of {PLACES[count][int(slot)]}"


def judge(logits: dict[str, Tensor], request: Request | PortraitRequest) -> list[list[Verdict]]:
    """Verdicts for every picture of a batch, one per attribute that the request names (the world is implied)."""
    count = 1 if isinstance(request, PortraitRequest) else max(1, len(request.things))
    options = answers(request)
    out = []
    probabilities = {name: value.float().softmax(1).cpu() for name, value in logits.items()}
    for row in range(len(next(iter(logits.values())))):
        best = max(
            options,
            key=lambda w: sum(
                probabilities[h][row, HEADS[h].index(v)].clamp_min(1e-9).log().item() for h, v in w.items()
            ),
        )
        verdicts = []
        for head, value in best.items():
            seen = probabilities[head][row]
            answer = int(seen.argmax())
            if head == "world" and HEADS[head][answer] == value:
                continue
            verdicts.append(
                Verdict(
                    _name(head, count), value, HEADS[head][answer], seen[answer].item(), HEADS[head][answer] == value
                )
            )
        out.append(verdicts)
    return out


def fully_right(verdicts: Sequence[Verdict]) -> bool:
    """All attributes that were asked for are there."""
    return all(verdict.right for verdict in verdicts)


def verify(verifier: SceneVerifier, images: Tensor, prompt: str) -> list[list[Verdict]]:
    """Judge images (B, 3, H, W) in [0, 1] against one prompt; empty lists where the prompt names nothing known."""
    with torch.no_grad():
        return judge(verifier(images.to(verifier.device, verifier.dtype)), read_prompt(prompt))
