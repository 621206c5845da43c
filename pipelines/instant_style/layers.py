"""A prompt for each cross-attention, and pictures beside what a sceptic would draw. A net file: torch at the top."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.core.patching import edited_inputs
from pipelines.core.run import Run
from pipelines.core.sheets import sheet
from pipelines.instant_style import HALVES, MIXED, POOLED, WORDS, A, B, Outcome, Preview, Settings
from pipelines.instant_style.matrix import ALONE, HALF, OTHERS
from pipelines.instant_style.matrix import WORDS as IN_WORDS
from pipelines.models import sdxl
from pipelines.models.verifier import SceneVerifier, answers, readings
from pipelines.worlds.prompts import read_prompt

BATCH = 8
"""Pictures that are drawn at once."""


@dataclass(frozen=True, eq=False)
class Words:
    """A prompt as the UNet hears it."""

    tokens: Tensor
    """(tokens, width), for the cross-attentions."""
    pooled: Tensor
    """(width of the pooled embedding)."""


@dataclass(frozen=True, eq=False)
class Row:
    """One picture: who speaks where, and its noise."""

    words: Words
    """Heard wherever nobody else speaks."""
    seed: int
    others: Mapping[str, Words] = field(default_factory=dict)
    """By place."""

    def heard(self, place: str) -> Words:
        return self.others.get(place, self.words)


def cross_attentions(unet: nn.Module, place: str) -> list[nn.Module]:
    """The cross-attentions of a place: one in our small model, up to ten in a row in SDXL.

    Raises:
        ValueError: the UNet has no such place.
    """
    try:
        block = unet.get_submodule(place)
    except AttributeError as error:
        raise ValueError(f"There is no place called {place} in this model: choose another.") from error
    return [part for name, part in block.named_modules() if name.endswith("attn2")]


@contextlib.contextmanager
def speaking(unet: nn.Module, heard: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the cross-attentions of each place hear the tokens ``heard[place]``, (N, tokens, width).

    They come in place of those of the last N rows of a batch: before them are the rows without a prompt. What pictures say, through an
    IP-Adapter, stays. Afterwards the UNet is as before.
    """

    def hears(tokens: Tensor) -> Callable[[nn.Module, dict[str, Any]], dict[str, Any]]:
        def edit(_module: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
            given = named["encoder_hidden_states"]
            text, *pictures = given if isinstance(given, tuple) else (given,)
            text = torch.cat([text[: len(text) - len(tokens)], tokens.to(text)])
            return {**named, "encoder_hidden_states": (text, *pictures) if pictures else text}

        return edit

    with contextlib.ExitStack() as stack:
        for place, tokens in heard.items():
            stack.enter_context(edited_inputs(cross_attentions(unet, place), hears(tokens)))
        yield


class Painter:
    """An SDXL pipeline that draws each picture of a batch with words of its own in each place. Holds leased models only."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.pipe = sdxl.build(parts)
        self.unet: Any = self.pipe.unet

    @torch.inference_mode()
    def encode(self, *prompts: str) -> list[Words]:
        """The prompts as the UNet hears them."""
        tokens, _, pooled, _ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return [Words(*both) for both in zip(tokens, pooled, strict=True)]

    @torch.inference_mode()
    def draw(
        self,
        rows: Sequence[Row],
        steps: int,
        guidance: float,
        on_step: Callable[[float], None] = lambda done: None,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Image.Image]:
        """A picture of each row; ``on_step`` is told the number of pictures done, in parts. ``more`` goes to the pipeline as it is."""
        made: list[Image.Image] = []
        while len(made) < len(rows):
            first = len(made)

            def after(
                _pipe: object, step: int, _level: object, given: dict[str, Any], first: int = first
            ) -> dict[str, Any]:
                on_step(first + min(BATCH, len(rows) - first) * (step + 1) / steps)
                return given

            made += self._batch(
                rows[first : first + BATCH],
                num_inference_steps=steps,
                guidance_scale=guidance,
                callback_on_step_end=after,
                **more,
            )
        return made

    def _batch(self, rows: Sequence[Row], **how: Any) -> list[Image.Image]:
        config, others = self.unet.config, {place for row in rows for place in row.others} - {POOLED}
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        noise = torch.cat([sdxl.draw_noise(row.seed, shape) for row in rows])
        tokens = torch.stack([row.words.tokens for row in rows])
        pooled = torch.stack([row.heard(POOLED).pooled for row in rows])
        heard = {place: torch.stack([row.heard(place).tokens for row in rows]) for place in sorted(others)}
        with speaking(self.unet, heard):
            return self.pipe(
                prompt_embeds=tokens,
                pooled_prompt_embeds=pooled,
                # What stands for no prompt is zeros, as encode_prompt gives it for SDXL.
                negative_prompt_embeds=torch.zeros_like(tokens),
                negative_pooled_prompt_embeds=torch.zeros_like(pooled),
                latents=noise.to(self.unet.device, self.unet.dtype),
                **how,
            ).images


class InstantStyle:
    """Prompt A with prompt B in some places, from the same noises as what stands beside it."""

    def __init__(self, parts: Mapping[str, Any], judge: SceneVerifier | None = None) -> None:
        self.painter, self.judge = Painter(parts), judge

    def __call__(self, run: Run[Settings]) -> Outcome:
        settings = run.settings
        prompts = [settings.prompt_a, settings.prompt_b, *([settings.words] if settings.words else [])]
        for prompt in prompts:
            run.note(sdxl.unread_note(prompt, sdxl.unread(self.painter.pipe, prompt)))
        if not settings.places:
            run.note("Prompt B speaks nowhere: click an attention on the map.")
        with run.stage("pictures"):
            drawn = self.pictures(run, self.painter.encode(*prompts))
        measurements = run.measurements(
            seconds=round(sum(run.seconds.values()), 3),
            places=list(settings.where),
            attributes=self.measure(settings, drawn) if self.judge is not None else {},
        )
        return Outcome(settings, sheet(drawn), measurements)

    def pictures(self, run: Run[Settings], words: Sequence[Words]) -> dict[str, list[Image.Image]]:
        """Column of the sheet -> its pictures."""
        settings, (a, b, *said) = run.settings, words
        kinds: dict[str, tuple[Words, Mapping[str, Words]]] = {
            A: (a, {}),
            MIXED: (a, dict.fromkeys(settings.where, b)),
            B: (b, {}),
            HALVES: (half_of_each(a, b), {}),
        }
        if said:
            kinds[WORDS] = said[0], {}
        drawn: dict[str, list[Image.Image]] = {}
        total = len(kinds) * settings.count
        for name, (everywhere, others) in kinds.items():
            rows = [Row(everywhere, settings.seed + n, others) for n in range(settings.count)]
            before = settings.count * len(drawn)

            def on_step(done: float, before: int = before, name: str = name) -> None:
                run.progress((before + done) / total, name)

            drawn[name] = self.painter.draw(rows, settings.steps, sdxl.FIRST[settings.model_set].guidance, on_step)
            run.show(Preview(sheet(drawn)))
        return drawn

    def measure(self, settings: Settings, drawn: Mapping[str, list[Image.Image]]) -> dict[str, Any]:
        """Of each attribute that A and B both name, and differently: how many pictures of each column have A's and B's."""
        asked = [readings(read_prompt(prompt))[0].wanted for prompt in (settings.prompt_a, settings.prompt_b)]
        heads = [head for head in asked[0] if asked[1].get(head, asked[0][head]) != asked[0][head]]
        return counted(self.judge, drawn, heads, dict(zip("AB", asked, strict=True)))


def see(judge: SceneVerifier | None, pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
    """What the judge sees in each picture, head by head."""
    assert judge is not None
    numbers = torch.from_numpy(numpy.stack([numpy.asarray(one) for one in pictures])).permute(0, 3, 1, 2) / 255
    return answers(judge, numbers.to(judge.device, judge.dtype))


def counted(
    judge: SceneVerifier | None,
    drawn: Mapping[str, Sequence[Image.Image]],
    heads: Sequence[str],
    wanted: Mapping[str, Mapping[str, str]],
) -> dict[str, dict[str, dict[str, int]]]:
    """Of each of the judge's heads, by its name on the page: how many pictures of each column have the value of each that is ``wanted``."""
    seen = {name: see(judge, pictures) for name, pictures in drawn.items()}
    return {
        head.removeprefix("0 ").replace("_", " "): {
            name: {who: sum(one[head] == values.get(head) for one in found) for who, values in wanted.items()}
            | {"of": len(found)}
            for name, found in seen.items()
        }
        for head in heads
    }


def arms(words: Sequence[Words], places: Sequence[str], said: Sequence[str], seed: int) -> dict[tuple[str, str], Row]:
    """What is drawn of a pair to say who paints what: (arm, place) -> picture, all from one noise.

    ``words``: A, B, and A with B's value of each attribute in ``said``.
    """
    a, b, *spoken = words
    drawn = {("A", ""): Row(a, seed), ("B", ""): Row(b, seed)}
    for place in places:
        drawn[ALONE, place] = Row(a, seed, {place: b})
        drawn[OTHERS, place] = Row(b, seed, {place: a})
    if said:
        drawn[HALF, ""] = Row(half_of_each(a, b), seed)
    return drawn | {(IN_WORDS, name): Row(one, seed) for name, one in zip(said, spoken, strict=True)}


def half_of_each(a: Words, b: Words) -> Words:
    """The mean of two prompts."""
    return Words((a.tokens + b.tokens) / 2, (a.pooled + b.pooled) / 2)
