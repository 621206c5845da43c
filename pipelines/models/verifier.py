"""The scene verifier: reads a picture and says, attribute by attribute, whether a prompt was fulfilled.

One network of our own around a transformers backbone, trained on renders whose truth is known
(``assets/verifier/train.py``). Two are shipped: ``reward`` (ResNet) may be used to choose or to teach,
``judge`` (RegNet, other seed) only to evaluate, so that nothing is graded by its own teacher.

A picture is read into a fixed set of heads. Things on the table are read from left to right; a request is
matched to them by its relation ("left of", "in front of", ...), and without one by the better assignment.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pipelines.core.libraries  # noqa: F401

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import RegNetConfig, RegNetModel, ResNetConfig, ResNetModel

from pipelines.models.verdicts import NOT_READ, Verdict
from pipelines.worlds import grammar
from pipelines.worlds.grammar import BACKDROPS, COLOURS, FINISHES, FLOORS, NO_FINISH, SHAPES, Request, Thing
from pipelines.worlds.portrait import words as portrait_words
from pipelines.worlds.prompts import PortraitRequest, read_prompt

SLOTS = 3
ORDINALS = ("the first object", "the second object", "the third object")
ASIDE = {
    "left": "the first left of the second",
    "right": "the first right of the second",
    "front": "the first in front of the second",
    "behind": "the first behind the second",
    "row": "from left to right",
}
"""Relations in words, for a verdict on their own."""
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


def backbone(architecture: str, widths: Sequence[int]) -> nn.Module:
    """A new network that reduces pictures by 32: "resnet" (basic blocks) or "regnet" (grouped convolutions).

    Raises:
        ValueError: another architecture.
    """
    shape: dict[str, Any] = {"embedding_size": 24, "hidden_sizes": list(widths)}
    if architecture == "resnet":
        return ResNetModel(ResNetConfig(**shape, depths=[1, 1, 1, 1], layer_type="basic"))
    if architecture == "regnet":
        return RegNetModel(RegNetConfig(**shape, depths=[1, 2, 2, 1], groups_width=16, layer_type="x"))
    raise ValueError(f"architecture {architecture!r} is unknown: use 'resnet' or 'regnet'")


def squeeze(widths: Sequence[int], size: int) -> nn.Sequential:
    """From what a :func:`backbone` leaves of pictures of side ``size`` to 192 numbers."""
    return nn.Sequential(nn.Conv2d(widths[-1], 64, 1), nn.Flatten(), nn.Linear(64 * (size // 32) ** 2, 192), nn.GELU())


class SceneVerifier(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers declares config_name twice
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
        self.backbone, self.squeeze = backbone(architecture, widths), squeeze(widths, size)
        self.read = nn.ModuleDict({name: nn.Linear(192, len(values)) for name, values in HEADS.items()})

    def features(self, images: Tensor) -> Tensor:
        """What the heads read from: (B, 192), also the space for Fréchet and kernel distances. Images in [0, 1]."""
        size = (self.config["size"], self.config["size"])
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        states = self.backbone(images * 4 - 2).last_hidden_state
        return self.squeeze(states)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every head for images (B, 3, H, W) in [0, 1]."""
        features = self.features(images)
        return {name: head(features) for name, head in self.read.items()}


@torch.inference_mode()
def answers(verifier: SceneVerifier, images: Tensor) -> list[dict[str, str]]:
    """What the verifier sees in each of images (B, 3, H, W) in [0, 1]: head -> its likeliest answer."""
    places = {name: logits.argmax(-1).tolist() for name, logits in verifier(images).items()}
    return [{name: HEADS[name][row[index]] for name, row in places.items()} for index in range(len(images))]


@dataclass(frozen=True)
class Reading:
    """One way to fulfil a request: head -> answer, and which thing of the request stands in which place from the left."""

    wanted: dict[str, str]
    order: tuple[int, ...] = ()


def readings(request: Request | PortraitRequest) -> list[Reading]:
    """Every way to fulfil a request: one, unless it leaves open what stands where."""
    if isinstance(request, PortraitRequest):
        return [Reading({"world": "portrait", **request.attributes})]
    count = len(request.things)
    common = {"world": "tabletop"} if count or request.floor or request.backdrop else {}
    common |= {name: value for name, value in (("floor", request.floor), ("backdrop", request.backdrop)) if value}
    if not 1 <= count <= SLOTS:
        return [Reading(common)]
    common |= {"count": str(count)}
    straight = tuple(range(count))
    orders = {"left": [straight], "right": [straight[::-1]], "row": [straight]}.get(request.relation or "")
    found = []
    for order in orders or itertools.permutations(straight):
        wanted = dict(common)
        for slot, index in enumerate(order):
            thing = request.things[index]
            finish = None if thing.colour in NO_FINISH else thing.finish
            fields = (("shape", thing.shape), ("colour", thing.colour), ("finish", finish))
            wanted |= {f"{slot} {name}": value for name, value in fields if value}
        if request.relation in ("front", "behind"):
            first_is_nearer = request.relation == "front"
            wanted["0 nearer"] = "left" if (order[0] == 0) == first_is_nearer else "right"
        found.append(Reading(wanted, tuple(order)))
    return found


def described(seen: Mapping[str, str]) -> str:
    """A prompt that says what a verifier sees, of :func:`answers`; always in the same words."""
    rng = random.Random(0)
    if seen["world"] == "portrait":
        return portrait_words.phrase(seen, list(portrait_words.SOMETIMES), rng)
    things = [
        Thing(*(seen[f"{slot} {name}"] for name in ("shape", "colour", "finish"))) for slot in range(int(seen["count"]))
    ]
    plain = tuple(replace(thing, finish=None) if thing.colour in NO_FINISH else thing for thing in things)
    relation = (None, "left", "row")[len(plain) - 1]
    return grammar.phrase(Request(plain, relation, seen["floor"], seen["backdrop"]), rng)


def log_likelihood(logits: dict[str, Tensor], request: Request | PortraitRequest) -> Tensor:
    """Log-probability (B,) that each picture fulfils the request, best reading; differentiable: the reward."""
    scores = []
    for reading in readings(request):
        parts = [logits[h].float().log_softmax(1)[:, HEADS[h].index(v)] for h, v in reading.wanted.items()]
        scores.append(torch.stack(parts).sum(0))
    return torch.stack(scores).amax(0)


def _verdict(head: str, seen: Tensor, reading: Reading, placed: bool) -> tuple[tuple[int, int], Verdict]:
    """The verdict on one head, and its place in the list: the same for every reading of a request."""
    answer = int(seen.argmax())
    wanted, found = reading.wanted[head], HEADS[head][answer]
    slot, _, field = head.partition(" ")
    if not field:
        name, place = {"world": "kind of picture", "count": "number of objects"}.get(head, head.replace("_", " ")), 99
    elif field == "nearer":
        # Left and right of the picture become first and second of the prompt.
        turn = {side: ORDINALS[index] for side, index in zip(("left", "right"), reading.order, strict=True)}
        name, place, wanted, found = "which object is nearer", 98, turn[wanted], turn[found]
    else:
        place = reading.order[int(slot)]
        name = f"{field} of {PLACES[len(reading.order)][int(slot)] if placed else ORDINALS[place]}"
    return (place, list(HEADS).index(f"0 {field}" if field else head)), Verdict(
        name, wanted, found, seen[answer].item(), wanted == found
    )


def judge(logits: dict[str, Tensor], request: Request | PortraitRequest, whole: bool = True) -> list[list[Verdict]]:
    """Verdicts for every picture of a batch, one per attribute that the request names.

    Things are named by their place where the request fixes it, else by their order in the prompt, so that the lists
    of all pictures have the same rows.

    Args:
        whole: False where the prompt asks for more things than these, so that nothing is said of their number.
    """
    options = readings(request)
    placed = len(options) == 1 and whole
    probabilities = {name: value.float().softmax(1).cpu() for name, value in logits.items()}

    def score(reading: Reading, row: int) -> float:
        found = (probabilities[h][row, HEADS[h].index(v)] for h, v in reading.wanted.items())
        return sum(p.clamp_min(1e-9).log().item() for p in found)

    out = []
    for row in range(len(next(iter(logits.values())))):
        best = max(options, key=lambda reading: score(reading, row))
        heads = [head for head in best.wanted if whole or head != "count"]
        pairs = [_verdict(head, probabilities[head][row], best, placed) for head in heads]
        out.append([verdict for _, verdict in sorted(pairs, key=lambda pair: pair[0])])
    return out


def fully_right(verdicts: Sequence[Verdict]) -> bool:
    """All attributes that were asked for are there; never so where one was not read."""
    return all(verdict.right for verdict in verdicts)


def verify(verifier: SceneVerifier, images: Tensor, prompt: str, cut: int | None = None) -> list[list[Verdict]]:
    """Judge images (B, 3, H, W) in [0, 1] against one prompt; empty lists where the prompt names nothing known.

    Args:
        cut: where the words begin that the image model did not read (:func:`pipelines.core.text.unread`): what only they ask for
            stands last and is neither right nor wrong.
    """
    request, missed = (read_prompt(prompt), []) if cut is None else read_as_far(prompt, cut)
    whole = not any(verdict.attribute == "number of objects" for verdict in missed)
    with torch.no_grad():
        judged = judge(verifier(images.to(verifier.device, verifier.dtype)), request, whole)
    return [[*verdicts, *missed] for verdicts in judged]


def read_as_far(prompt: str, cut: int) -> tuple[Request | PortraitRequest, list[Verdict]]:
    """What ``prompt[:cut]`` asks for and the whole prompt too, and a verdict of :data:`NOT_READ` for all else."""
    whole, part = read_prompt(prompt), read_prompt(prompt[:cut])
    if isinstance(whole, PortraitRequest):
        told = part.attributes if isinstance(part, PortraitRequest) else {}
        kept = {name: value for name, value in told.items() if whole.attributes.get(name) == value}
        rest = {name.replace("_", " "): value for name, value in whole.attributes.items() if name not in kept}
        return PortraitRequest(kept) if isinstance(part, PortraitRequest) else Request(), _missed(rest)
    if isinstance(part, PortraitRequest):
        part = Request()
    rest, things = {}, part.things
    for number, thing in enumerate(whole.things[len(things) : SLOTS], len(things)):
        fields = (("shape", thing.shape), ("colour", thing.colour), ("finish", thing.finish))
        rest |= {f"{field} of {ORDINALS[number]}": value for field, value in fields if value}
    if len(things) < len(whole.things):  # floor and backdrop are what is said behind the last thing
        part = Request(things, part.relation)
        rest["number of objects"] = str(len(whole.things))
    agreed: dict[str, Any] = {
        name: getattr(part, name) if getattr(part, name) == getattr(whole, name) else None
        for name in ("relation", "floor", "backdrop")
    }
    rest |= {"place of the objects": ASIDE[whole.relation]} if whole.relation and not agreed["relation"] else {}
    rest |= {name: getattr(whole, name) for name in ("floor", "backdrop") if getattr(whole, name) and not agreed[name]}
    return Request(things, **agreed), _missed(rest)


def _missed(wanted: Mapping[str, str]) -> list[Verdict]:
    return [Verdict(attribute, value, NOT_READ, 0.0, None) for attribute, value in wanted.items()]
