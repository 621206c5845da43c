"""A prompt a stage: what the UNet reads changes along the way, and pictures that begin alike share their beginning. Torch at the top."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipelines.core.images import to_pil
from pipelines.core.patching import edited_outputs
from pipelines.core.run import Run
from pipelines.core.sheets import Preview, caption, line_of, sheet
from pipelines.core.text import encode_text
from pipelines.models import sdxl
from pipelines.models.verifier import SceneVerifier, answers, readings
from pipelines.prospect import STAGES, Outcome, Settings
from pipelines.prospect.tokens import Tokens
from pipelines.worlds.prompts import read_prompt

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    from pipelines.prospect.curve import LabSettings

AT_ONCE = {"mini": 16, "full": 2}
"""Pictures that are drawn at once."""
ALL, AVERAGE = "+", "~"
"""Letters of the baselines: all prompts in one, and the average of the prompts."""
_ANY = "a"
"""A word whose place a learnt one takes."""
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Spectrum:
    """What the UNet reads in each stage."""

    embeds: Tensor
    """(stages, tokens, width)."""
    pooled: Tensor
    """(stages, width)."""


def stage_of(level: float, levels: int) -> int:
    """The stage, from 0, to which a level of noise belongs; ``levels`` is how many the model was trained with."""
    return min(max(int(STAGES * (levels - 1 - level) / levels), 0), STAGES - 1)


def average(spectra: Mapping[str, Spectrum], plan: str) -> Spectrum:
    """In every stage the mean of the prompts, weighted by how many stages of the plan each has."""
    chosen = [spectra[letter] for letter in plan]
    embeds, pooled = (torch.stack([getattr(one, name) for one in chosen]).mean(0) for name in ("embeds", "pooled"))
    return Spectrum(embeds, pooled)


class Painter:
    """An SDXL pipeline that reads a spectrum."""

    def __init__(self, pipe: StableDiffusionXLPipeline) -> None:
        self.pipe: Any = pipe
        _, self.nothing, _, self.nothing_pooled = self.pipe.encode_prompt("", do_classifier_free_guidance=True)

    def spectrum(self, prompt: str) -> Spectrum:
        """The spectrum of one prompt that speaks in all stages."""
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
        return Spectrum(embeds.expand(STAGES, -1, -1), pooled.expand(STAGES, -1))

    def worded(self, tokens: Tensor) -> Spectrum:
        """The spectrum of a prompt of so many words, whose embeddings are others in each stage; slopes pass through.

        Args:
            tokens: (stages, words, width), the embeddings of both text encoders side by side.

        Raises:
            ValueError: they are as wide as no word of this model, or more than it reads.
        """
        tables = self._tables()
        widths, most = [table.embedding_dim for table in tables], self.pipe.tokenizer.model_max_length - 2
        if len(tokens) != STAGES or tokens.shape[2] != sum(widths) or not 1 <= tokens.shape[1] <= most:
            raise ValueError(
                f"The tokens are {' × '.join(map(str, tokens.shape))} but this model reads {STAGES} × 1 to {most} × {sum(widths)}: "
                "invert the picture with it."
            )
        halves, behind = dict(zip(tables, tokens.split(widths, 2), strict=True)), 1 + tokens.shape[1]

        def put(table: Any, words: Tensor) -> Tensor:
            return torch.cat([words[:, :1], halves[table].to(words), words[:, behind:]], 1)

        with edited_outputs(tables, put):
            prompt = " ".join([_ANY] * tokens.shape[1])
            embeds, _, pooled, _ = self.pipe.encode_prompt([prompt] * STAGES, do_classifier_free_guidance=False)
        return Spectrum(embeds, pooled)

    def words(self, prompt: str) -> Tensor:
        """The embeddings of a prompt's tokens as :meth:`worded` takes them, alike in all stages, float32; of an empty one the mean of all
        words. As far as the encoders read, and where the two tokenizers agree on their number."""
        tables, tokenizers = self._tables(), (self.pipe.tokenizer, self.pipe.tokenizer_2)
        most = self.pipe.tokenizer.model_max_length - 2
        numbers = [encode_text(tokenizer, prompt)[:most] for tokenizer in tokenizers]
        count = min(map(len, numbers))
        found = [
            table.weight.detach().float()[one[:count]] if count else table.weight.detach().float().mean(0, keepdim=True)
            for table, one in zip(tables, numbers, strict=True)
        ]
        return torch.cat(found, 1).expand(STAGES, -1, -1)

    def shown(self, picture: Tokens) -> Spectrum:
        """The spectrum of a picture that was inverted."""
        return self.worded(torch.from_numpy(picture.values).to(self.nothing.device))

    def spread(self) -> Tensor:
        """How far the embeddings of words lie apart, one number an encoder, (width,) float32."""
        weights = [table.weight.detach().float() for table in self._tables()]
        return torch.cat([weight.std().expand(weight.shape[1]) for weight in weights])

    def _tables(self) -> list[Any]:
        """The embeddings of words, an encoder after the other."""
        return [one.get_input_embeddings() for one in (self.pipe.text_encoder, self.pipe.text_encoder_2)]

    def size_told(self, rows: int) -> Tensor:
        """What SDXL is told of the picture's size, (rows, 6)."""
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        return torch.tensor([[side, side, 0, 0, side, side]]).to(self.nothing).expand(rows, -1)

    def noise(self, seed: int) -> Tensor:
        config = self.pipe.unet.config
        drawn = sdxl.draw_noise(seed, (1, config.in_channels, config.sample_size, config.sample_size))
        return drawn.to(self.pipe.unet.device, self.pipe.unet.dtype)

    def draw(
        self,
        noise: Tensor,
        plans: Sequence[str],
        spectra: Mapping[str, Spectrum],
        steps: int,
        guidance: float,
        on_step: OnStep = lambda step: None,
    ) -> Tensor:
        """Pictures (plans, 3, H, W) in [0, 1] of all plans from one noise (1, C, h, w).

        What two plans have in common at their beginning is drawn once. Each letter of a plan names one of ``spectra``; ``on_step`` is
        called after each step with its number.

        Raises:
            ValueError: the numbers are no longer finite.
        """
        self.pipe.scheduler.set_timesteps(steps)
        levels = self.pipe.scheduler.config.num_train_timesteps
        stages = [stage_of(float(level), levels) for level in self.pipe.scheduler.timesteps]
        begun = _beginnings(plans, stages[0])

        def after(pipe: object, step: int, _level: object, given: dict[str, Tensor]) -> dict[str, Tensor]:
            on_step(step + 1)
            if step + 1 == steps or stages[step + 1] == stages[step]:
                return given
            before, now = (_beginnings(plans, stages[place]) for place in (step, step + 1))
            place = {begin: n for n, begin in enumerate(before)}
            rows = [place[begin[: stages[step] + 1]] for begin in now]
            embeds, pooled = self._read(now, spectra)
            if self.pipe.do_classifier_free_guidance:
                embeds = torch.cat([self.nothing.expand_as(embeds), embeds])
                pooled = torch.cat([self.nothing_pooled.expand_as(pooled), pooled])
            return {
                "latents": given["latents"][rows],
                "prompt_embeds": embeds,
                "add_text_embeds": pooled,
                "add_time_ids": given["add_time_ids"][:1].expand(len(embeds), -1),
            }

        embeds, pooled = self._read(begun, spectra)
        pictures = self.pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=self.nothing.expand_as(embeds),
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=self.nothing_pooled.expand_as(pooled),
            latents=noise.expand(len(begun), -1, -1, -1).clone(),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            callback_on_step_end=after,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"],
        ).images.float()
        if not bool(pictures.isfinite().all()):
            raise ValueError("The model's numbers are no longer finite: choose less guidance.")
        ended = {begin: n for n, begin in enumerate(_beginnings(plans, stages[-1]))}
        return pictures[[ended[plan[: stages[-1] + 1]] for plan in plans]]

    def _read(self, begun: Sequence[str], spectra: Mapping[str, Spectrum]) -> tuple[Tensor, Tensor]:
        """What the UNet reads in the last stage of each beginning: (rows, tokens, width) and (rows, width)."""
        read = [(spectra[begin[-1]], len(begin) - 1) for begin in begun]
        return torch.stack([one.embeds[s] for one, s in read]), torch.stack([one.pooled[s] for one, s in read])


def _beginnings(plans: Sequence[str], stage: int) -> list[str]:
    """The different beginnings of ``plans`` up to ``stage``, in their order."""
    return list(dict.fromkeys(plan[: stage + 1] for plan in plans))


def moved(first: str, second: str) -> list[str]:
    """The plans in which ``first`` speaks for 0, 1, ... all stages and ``second`` afterwards."""
    return [first * border + second * (STAGES - border) for border in range(STAGES + 1)]


# -------------------------------------------------------------------------------------------- a run


class ProSpect:
    """Plans beside their baselines. Holds leased models only; makes no change to them."""

    def __init__(self, parts: Mapping[str, Any], judge: SceneVerifier | None = None) -> None:
        self.painter, self.judge = Painter(sdxl.build(parts)), judge

    def __call__(self, run: Run[Settings], pictures: Sequence[Tokens] = ()) -> Outcome:
        """The sheets of the run's settings, and whose attributes the pictures have. ``pictures``: what "picture 1" and so on stand for."""
        settings, pipe = run.settings, self.painter.pipe
        shown = {letter: pictures[number - 1] for letter, number in settings.pictures.items()}
        said = {letter: prompt for letter, prompt in settings.named.items() if letter not in shown}
        joined = " and ".join(dict.fromkeys(settings.named[letter] for letter in settings.plan))
        joined = (
            "" if set(settings.plan) & shown.keys() else joined
        )  # what a picture shows cannot be said in one prompt
        for prompt in (*said.values(), joined):
            run.note(sdxl.unread_note(prompt, sdxl.unread(pipe, prompt)))
        ways = {"by stage": settings.plan, "all in one prompt": ALL * STAGES, "average": AVERAGE * STAGES}
        ways = {way: plan for way, plan in ways.items() if joined or plan[0] != ALL}
        ways |= {f"{letter} alone": letter * STAGES for letter in settings.named}
        swaps = moved("A", "B") if settings.borders and "B" in settings.named else []
        with torch.inference_mode(), run.stage("pictures"):
            spectra = {letter: self.painter.spectrum(prompt) for letter, prompt in said.items()}
            spectra |= {letter: self.painter.shown(one) for letter, one in shown.items()}
            spectra |= {
                AVERAGE: average(spectra, settings.plan),
                **({ALL: self.painter.spectrum(joined)} if joined else {}),
            }
            drawn: dict[str, list[Tensor]] = {way: [] for way in ways}
            moving: list[Tensor] = []
            for number in range(settings.count):
                plans = [*ways.values(), *(swaps if number == 0 else [])]
                made = self.draw(run, number, plans, spectra)
                for way, picture in zip(ways, made, strict=False):
                    drawn[way].append(picture)
                moving += made[len(ways) :]
                run.show(Preview("staged", sheet({way: to_pil(torch.stack(one)) for way, one in drawn.items()})))
                run.show(Preview("borders", border_sheet(moving)))
        measurements = run.measurements(
            seconds=round(run.seconds["pictures"], 3),
            plan=settings.plan,
            whose=self.whose(told_apart(said, {letter: one.seen for letter, one in shown.items()}), drawn),
        )
        rows = {way: to_pil(torch.stack(one)) for way, one in drawn.items()}
        return Outcome(settings, sheet(rows), border_sheet(moving), measurements)

    def draw(self, run: Run[Settings], number: int, plans: list[str], spectra: Mapping[str, Spectrum]) -> list[Tensor]:
        """The pictures of ``plans`` from the ``number``-th noise."""
        settings = run.settings
        at_once = AT_ONCE[settings.model_set]
        made: list[Tensor] = []
        for first in range(0, len(plans), at_once):

            def on_step(step: int, first: int = first) -> None:
                done = first + min(at_once, len(plans) - first) * step / settings.steps
                run.progress(
                    (number + done / len(plans)) / settings.count,
                    f"noise {number + 1} of {settings.count}, step {step} of {settings.steps}",
                )

            noise = self.painter.noise((settings.seed + number) % 2**32)
            some = plans[first : first + at_once]
            made += self.painter.draw(noise, some, spectra, settings.steps, settings.guidance, on_step)
        return made

    def whose(
        self, wanted: Mapping[str, Mapping[str, str]], drawn: Mapping[str, list[Tensor]]
    ) -> dict[str, dict[str, dict[str, int]]]:
        """Way -> attribute -> letter of the prompt whose it is -> number of pictures; "none" where it is neither's. ``wanted``: of
        :func:`told_apart`."""
        if self.judge is None or not wanted:
            return {}
        found: dict[str, dict[str, dict[str, int]]] = {}
        for way, pictures in drawn.items():
            counts = found[way] = {head: {} for head in wanted}
            for seen in answers(self.judge, torch.stack(pictures).to(self.judge.device, self.judge.dtype)):
                for head, values in wanted.items():
                    letters = "".join(letter for letter, value in values.items() if value == seen[head]) or "none"
                    counts[head][letters] = counts[head].get(letters, 0) + 1
        return found


def told_apart(
    prompts: Mapping[str, str], seen: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> dict[str, dict[str, str]]:
    """Head of the judge -> letter -> what its prompt wants there, of those that more than one prompt names, and not all alike.

    ``seen``: letter of a picture -> what the judge sees in it.
    """
    asked = {letter: readings(read_prompt(prompt))[0].wanted for letter, prompt in prompts.items()}
    asked = dict(sorted({**asked, **{letter: dict(one) for letter, one in seen.items()}}.items()))
    heads = dict.fromkeys(head for one in asked.values() for head in one)
    named = {head: {letter: one[head] for letter, one in asked.items() if head in one} for head in heads}
    return {head: values for head, values in named.items() if len(set(values.values())) > 1}


# -------------------------------------------------------------------------------------------- sheets


def border_sheet(pictures: Sequence[Tensor] | Tensor, across: int = 6) -> Image.Image:
    """The pictures of :func:`moved`, each under how many stages A and B have."""
    if len(pictures) == 0:
        return Image.new("RGB", (64, 64), "white")
    shown = to_pil(torch.stack(list(pictures)))
    width, height = shown[0].size
    line = line_of(across * width)
    canvas = Image.new("RGB", (across * width, -(-len(shown) // across) * (height + line)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, picture in enumerate(shown):
        left, top = number % across * width, number // across * (height + line)
        caption(draw, f"A {number}, B {STAGES - number}", left, top, line)
        canvas.paste(picture, (left, top + line))
    return canvas


def look(
    painter: Painter, judge: SceneVerifier, pair: tuple[str, str], seed: int, settings: LabSettings, on_step: Any
) -> tuple[dict[str, str], Image.Image]:
    """Attribute -> whose it is at every border, and the sheet of the pictures.

    Raises:
        ValueError: the judge can tell nothing apart.
    """
    prompts = dict(zip("AB", pair, strict=True))
    wanted = {head: values for head, values in told_apart(prompts).items() if len(values) == 2}
    if not wanted:
        raise ValueError(
            "The judge can tell nothing apart in these two prompts: let A and B ask for different shapes, colours or places."
        )
    with torch.inference_mode():
        spectra = {letter: painter.spectrum(prompt) for letter, prompt in prompts.items()}
        plans, noise = moved("A", "B"), painter.noise(seed)
        pictures = painter.draw(noise, plans, spectra, settings.steps, settings.guidance, on_step)
        seen = answers(judge, pictures.to(judge.device, judge.dtype))
    return {head.removeprefix("0 "): _letters(seen, head, values) for head, values in wanted.items()}, border_sheet(
        pictures
    )


def _letters(seen: Sequence[Mapping[str, str]], head: str, wanted: Mapping[str, str]) -> str:
    return "".join(next((who for who, value in wanted.items() if value == one[head]), "-") for one in seen)
