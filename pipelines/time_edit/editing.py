"""The closed formula of TIME, and pictures before and after it. A net file: torch at the top."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from pipelines.core.run import KeptRun, Run
from pipelines.core.sheets import TEXT_PX, Preview, caption
from pipelines.core.text import encode_text
from pipelines.models import sdxl
from pipelines.models.verifier import SceneVerifier, answers, judge, readings
from pipelines.time_edit import EVERYTHING, Outcome, Settings, is_bare, protected
from pipelines.time_edit.saved import TOKENS, WHOLES, Edit
from pipelines.worlds.portrait.words import ATTRIBUTES
from pipelines.worlds.prompts import read_prompt

BATCH = 8
"""Pictures that are drawn at once."""
RELATED, CONTRADICTING = "related", "contradicting"
POOLED = "add_embedding.linear_1"
"""The matrix of SDXL's UNet whose first columns read the prompt as a whole; the others read sizes."""


# ------------------------------------------------------------------------------------------- the edit


def twins(source: Sequence[int], destination: Sequence[int]) -> list[int]:
    """For every token of ``source`` the place of its twin in ``destination``.

    Both are aligned from their ends, so that a word that occurs twice is twinned with its last copy, as in the authors' code. A token
    that the destination does not have is twinned with what stands in its place.
    """
    matcher = difflib.SequenceMatcher(None, source[::-1], destination[::-1], autojunk=False)
    found = [0] * len(source)
    for _, a, b, c, d in matcher.get_opcodes():
        for place in range(a, b):
            found[place] = min(c + (place - a), max(d - 1, c), len(destination) - 1)
    return [len(destination) - 1 - place for place in found[::-1]]


def edited(weight: Tensor, sources: Tensor, twins: Tensor, held: Tensor) -> Tensor:
    """W' of Eq. 6, worked out in float64, in the dtype of ``weight``.

    Args:
        weight: W, (out, width). sources: c_i, (N, width). twins: c_i*, (N, width).
        held: how firmly W' stays at W in each direction, (width, width), symmetric and positive; the paper's is λ I.
    """
    w, c, wanted, firm = weight.double(), sources.double(), twins.double(), held.double()
    return torch.linalg.solve(firm + c.mT @ c, w @ firm + (w @ wanted.mT) @ c, left=False).to(weight.dtype)


def factors(sources: Tensor, twins: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """``shift`` and ``reading`` (N, width) float64, of which :func:`applied` makes the same W' as :func:`edited`, of every matrix."""
    c, firm = sources.double(), held.double()
    return twins.double() - c, torch.linalg.solve(firm + c.mT @ c, c, left=False)


def applied(weight: Tensor, shift: Tensor, reading: Tensor) -> Tensor:
    """W' = W + W shiftᵀ reading, worked out in float64, in the dtype of ``weight``."""
    w = weight.double()
    return (w + (w @ shift.to(w).mT) @ reading.to(w)).to(weight.dtype)


def projections(unet: nn.Module, layers: str) -> dict[str, nn.Linear]:
    """The matrices that read the prompt, by their names in the UNet; ``layers`` is one of :data:`pipelines.time_edit.LAYERS`."""
    ends = {"keys": ("to_k",), "values": ("to_v",)}.get(layers, ("to_k", "to_v"))
    whole = POOLED if layers == EVERYTHING else None
    return {
        name: part
        for name, part in unet.named_modules()
        if isinstance(part, nn.Linear) and (name == whole or (".attn2." in name and name.endswith(ends)))
    }


@contextlib.contextmanager
def wearing(unet: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the named matrices have other values; afterwards the very tensors are back that were there before."""
    modules = dict(unet.named_modules())
    before = {name: modules[name].weight for name in weights}
    try:
        for name, value in weights.items():
            modules[name].weight = nn.Parameter(value, requires_grad=False)
        yield
    finally:
        for name, value in before.items():
            modules[name].weight = value


# -------------------------------------------------------------------------------------------- a run


class TimeEdit:
    """An SDXL pipeline whose cross-attentions are edited for the length of a block. Holds leased models only."""

    def __init__(self, parts: Mapping[str, Any], judge: SceneVerifier | None = None) -> None:
        self.pipe = sdxl.build(parts)
        self.judge: Any = judge  # asked only where there is one
        self.unet = self.pipe.unet

    def __call__(self, run: KeptRun[Settings], saved: Sequence[Edit] = ()) -> Outcome:
        """Pictures of all prompts before and after the edits, from the same noises, and what became of them. Lines of the settings that
        are among the ``saved`` edits are made as those are."""
        settings = run.settings
        for prompt in (*sum(settings.pairs, ()), *sum(settings.prompts.values(), ())):
            run.note(sdxl.unread_note(prompt, sdxl.unread(self.pipe, prompt)))
        with torch.inference_mode():
            with run.stage("edit"):
                known = {line for one in saved for line in one.edits.splitlines()}
                rest = [line for line in settings.edits.splitlines() if line.strip() and line.strip() not in known]
                new = [self.edit(replace(settings, edits="\n".join(rest)))] if rest else []
                weights = self.weights([*saved, *new])
            drawn = self.pictures(run, weights)
        sheets = {kind: sheet(rows) for kind, rows in shown(drawn).items()}
        figures = self.measure(settings, drawn) if self.judge is not None else {}
        share = sum(value.numel() for value in weights.values()) / sum(p.numel() for p in self.unet.parameters())
        measurements = run.measurements(
            seconds=round(sum(run.seconds.values()), 3),
            edit_seconds=round(run.seconds["edit"], 4),
            matrices=len(weights),
            share_of_weights=round(share, 4),
            **figures,
        )
        return Outcome(settings, **sheets, measurements=measurements, weights=dict(weights))

    @torch.no_grad()
    def edit(self, settings: Settings) -> Edit:
        """What changes the matrices, for the edits of the settings together."""
        read = [self._read(*pair) for pair in settings.pairs]
        sources, wanted, wholes, wanted_wholes = (torch.cat(parts) for parts in zip(*read, strict=True))
        if settings.layers != EVERYTHING:
            wholes, wanted_wholes = wholes[:0], wanted_wholes[:0]
        firm, firm_wholes = self.held(settings, sources, wholes)
        tables = *factors(sources, wanted, firm), *factors(wholes, wanted_wholes, firm_wholes)
        told = settings.edits, settings.layers, settings.regularisation, settings.protect, settings.model_set
        return Edit(*told, sdxl.mark(sdxl.BASES[settings.model_set]), *(one.cpu().numpy() for one in tables))

    def weights(self, edits: Sequence[Edit]) -> dict[str, Tensor]:
        """The edited matrices by their names in the UNet; what several edits change adds up.

        Raises:
            ValueError: an edit is as wide as no prompt of this model.
        """
        of = {layers: set(projections(self.unet, layers)) for layers in {edit.layers for edit in edits}}
        made = {}
        for name, part in projections(self.unet, EVERYTHING).items():
            here = [edit for edit in edits if name in of[edit.layers]]
            if not here:
                continue
            keys = WHOLES if name == POOLED else TOKENS
            shift, reading = (torch.from_numpy(numpy.concatenate([getattr(e, key) for e in here])) for key in keys)
            width = self.pipe.text_encoder_2.config.projection_dim if name == POOLED else part.in_features
            if shift.shape[1] != width:
                raise ValueError("The edit does not fit this model's prompts: save it again on this page.")
            made[name] = part.weight.clone()
            made[name][:, :width] = applied(part.weight[:, :width], shift, reading)
        return made

    def held(self, settings: Settings, *like: Tensor) -> tuple[Tensor, Tensor]:
        """λ I + μ C, (width, width), for tokens and for prompts as a whole, each of the width of one ``like``.

        C is the mean over the protected prompts of their tokens; of wholes the sum over the bare ones. A prompt has 77 tokens but one whole,
        and as many wholes as the vector has numbers would leave the edit no direction.
        """
        tokens, wholes = (
            settings.regularisation * torch.eye(one.shape[1], dtype=torch.float64, device=one.device) for one in like
        )
        sources = [source for source, _ in settings.pairs]
        prompts = protected(settings.model_set, sources) if settings.protect else []
        for start in range(0, len(prompts), 50):
            some = prompts[start : start + 50]
            embeds, _, pooled, _ = self.pipe.encode_prompt(some, do_classifier_free_guidance=False)
            seen, whole = embeds.flatten(0, 1).double(), pooled[[is_bare(prompt) for prompt in some]].double()
            tokens += settings.protect / len(prompts) * (seen.mT @ seen)
            wholes += settings.protect * (whole.mT @ whole)
        return tokens, wholes

    def _read(self, source: str, destination: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings (N, width) of the source's tokens and of their twins, and of both prompts as a whole, (1, width).

        The text encoders are causal: what a destination says behind the source's words is known only to the tokens that end and pad it.
        """
        embeds, _, pooled, _ = self.pipe.encode_prompt([source, destination], do_classifier_free_guidance=False)
        length = embeds.shape[1] - 1  # without the token that begins every prompt, which says nothing
        ids = []
        for prompt in (source, destination):
            words = encode_text(self.pipe.tokenizer, prompt)[: length - 1]
            ids.append(words + [self.pipe.tokenizer.eos_token_id] * (length - len(words)))
        return embeds[0, 1:], embeds[1, 1:][twins(*ids)], pooled[:1], pooled[1:]

    def pictures(
        self, run: KeptRun[Settings], weights: Mapping[str, Tensor]
    ) -> dict[str, dict[str, list[Image.Image]]]:
        """Kind of prompt -> row of its sheet -> pictures; those of one column come from one noise. What the unedited model draws is kept."""
        settings = run.settings
        prompts = {kind: [p for p in found for _ in range(settings.count)] for kind, found in settings.prompts.items()}
        asked = [destination for _, destination in settings.pairs for _ in range(settings.count)]
        total = 2 * sum(map(len, prompts.values())) + len(asked)
        drawn: dict[str, dict[str, list[Image.Image]]] = {}
        done = 0

        def unedited(row: str, texts: Sequence[str]) -> list[Image.Image]:
            return run.kept(row, lambda: self.draw(run, texts, done, total), *texts, settings.seed, settings.steps)

        for kind, texts in prompts.items():
            rows = drawn[kind] = {"before": unedited("before", texts)}
            done += len(texts)
            with run.stage("after"), wearing(self.unet, weights):
                rows["after"] = self.draw(run, texts, done, total)
            done += len(texts)
            if kind == "edited":
                rows["said in words"] = unedited("said in words", asked)
                done += len(asked)
            of = RELATED if kind == CONTRADICTING else kind
            run.show(Preview(of, sheet(shown(drawn)[of])))
        return drawn

    def draw(self, run: Run[Settings], prompts: Sequence[str], done: int, total: int) -> list[Image.Image]:
        """A picture of each prompt; the n-th from noise of the seed plus n, whatever its prompt. ``done`` of ``total`` are drawn."""

        def report(fraction: float) -> None:
            at = done + fraction * len(prompts)
            run.progress(at / total, f"picture {math.ceil(at)} of {total}")

        return self.painted(run.settings, prompts, range(len(prompts)), report)

    def painted(
        self, settings: Settings, prompts: Sequence[str], places: Sequence[int], report: Callable[[float], None]
    ) -> list[Image.Image]:
        """A picture of each prompt, from noise of the seed plus its place; ``report`` hears after each step how many of them are drawn,
        in [0, 1]."""
        config = self.unet.config
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        made: list[Image.Image] = []
        while len(made) < len(prompts):
            first, texts = len(made), list(prompts[len(made) : len(made) + BATCH])
            noise = torch.cat([sdxl.draw_noise(settings.seed + n, shape) for n in places[first : first + len(texts)]])

            def after(_pipe: object, step: int, _level: object, given: dict[str, Any]) -> dict[str, Any]:
                report((first + len(texts) * (step + 1) / settings.steps) / len(prompts))  # noqa: B023  # called in this round
                return given

            made += self.pipe(
                texts,
                latents=noise.to(self.unet.device, self.unet.dtype),
                num_inference_steps=settings.steps,
                guidance_scale=sdxl.BASES[settings.model_set].guidance,
                callback_on_step_end=after,
            ).images
        return made

    def measure(self, settings: Settings, drawn: Mapping[str, Mapping[str, list[Image.Image]]]) -> dict[str, Any]:
        """Efficacy, generality and specificity, and in how many pictures a prompt that says otherwise is obeyed; each as [right, of], before
        and after."""
        found: dict[str, Any] = {}
        for kind, name in (("edited", "efficacy"), ("related", "generality")):
            prompts = [p for p in settings.prompts[kind] for _ in range(settings.count)]
            for row, pictures in drawn[kind].items():
                right = [
                    self.has(one, p, settings.rewritten(p)) for one, p in zip(self.read(pictures), prompts, strict=True)
                ]
                known = [one for one in right if one is not None]
                found.setdefault(name, {})[row] = [sum(known), len(known)]
        heads = changed_heads(settings)
        before, after = (self.seen(drawn["unrelated"][row]) for row in ("before", "after"))
        same = [alike(*pair, heads) for pair in zip(before, after, strict=True)]
        found["specificity"] = {"after": [sum(same), len(same)]}
        asked = [p for p in settings.prompts[CONTRADICTING] for _ in range(settings.count)]
        for row, pictures in drawn[CONTRADICTING].items():
            kept = [
                all(seen[head] == value for head, value in said.items())
                for seen, said in zip(self.seen(pictures), (about(p, heads) for p in asked), strict=True)
                if said
            ]
            if kept:
                found.setdefault("contradiction", {})[row] = [sum(kept), len(kept)]
        return found

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[dict[str, Tensor]]:
        """The judge's logits (1, answers) for each picture, head by head."""
        if not pictures:
            return []
        logits = self.judge(as_tensor(pictures).to(self.judge.device, self.judge.dtype))
        return [{head: values[n : n + 1] for head, values in logits.items()} for n in range(len(pictures))]

    def has(self, logits: dict[str, Tensor], prompt: str, wanted: str) -> bool | None:
        """Whether the picture has what ``wanted`` says beyond ``prompt``; None where the judge cannot read that."""
        plain = {(v.attribute, v.wanted) for v in judge(logits, read_prompt(prompt))[0]}
        extra = [v for v in judge(logits, read_prompt(wanted))[0] if (v.attribute, v.wanted) not in plain]
        return all(verdict.right for verdict in extra) if extra else None

    def seen(self, pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
        """What the judge sees in each picture, head by head."""
        return answers(self.judge, as_tensor(pictures).to(self.judge.device, self.judge.dtype)) if pictures else []


def changed_heads(settings: Settings) -> list[str]:
    """What the edits are about, as heads of the judge: other prompts should keep it."""
    named = [
        {head for prompt in prompts for reading in readings(read_prompt(prompt)) for head in reading.wanted}
        for prompts in zip(*settings.pairs, strict=True)
    ]
    return sorted(named[1] - named[0])


def alike(one: Mapping[str, str], other: Mapping[str, str], heads: Sequence[str]) -> bool:
    """Whether the judge sees the same world in two pictures, and the same of ``heads`` as far as that world has them: of the hair of a cube it
    would say anything."""
    known = [head for head in heads if (head in ATTRIBUTES) == (one["world"] == "portrait")]
    return all(one[head] == other[head] for head in ("world", *known))


def about(prompt: str, heads: Sequence[str]) -> dict[str, str]:
    """What a prompt itself says of ``heads``, in its first reading."""
    return {head: value for head, value in readings(read_prompt(prompt))[0].wanted.items() if head in heads}


def shown(drawn: Mapping[str, Mapping[str, list[Image.Image]]]) -> dict[str, dict[str, list[Image.Image]]]:
    """The rows of each sheet: what says otherwise stands below what should change."""
    sheets = {kind: dict(rows) for kind, rows in drawn.items() if kind != CONTRADICTING}
    for row, pictures in drawn.get(CONTRADICTING, {}).items():
        sheets[RELATED][f"says otherwise, {row}"] = pictures
    return sheets


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(numpy.stack([numpy.asarray(one) for one in pictures])).permute(0, 3, 1, 2).float() / 255


def sheet(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows, each row under its name; rows of one picture stand side by side. A small empty picture where there are none."""
    shown = {name: pictures for name, pictures in rows.items() if pictures}
    if not shown:
        return Image.new("RGB", (64, 64), "white")
    width, height = next(iter(shown.values()))[0].size
    columns = max(map(len, shown.values()))
    across = columns == 1
    cells = (len(shown), 1) if across else (columns, len(shown))
    canvas = Image.new("RGB", (cells[0] * width, cells[1] * (height + TEXT_PX)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (name, pictures) in enumerate(shown.items()):
        left, top = (row * width, 0) if across else (0, row * (height + TEXT_PX))
        caption(draw, name, left, top, TEXT_PX)
        for column, picture in enumerate(pictures):
            canvas.paste(picture, (left + column * width, top + TEXT_PX))
    return canvas
