"""Train ``mini-sdxl`` from nothing: autoencoder, text encoders, UNet.

    python -m assets.lab.shards --world tabletop --shards 0:20     # and portrait, see there
    python -m assets.mini_sdxl.train vae  --minutes 9
    python -m assets.mini_sdxl.train decoder --minutes 6
    python -m assets.mini_sdxl.train text --minutes 11
    python -m assets.mini_sdxl.train latents
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_sdxl.train unet --minutes 70

Seed 0. On a CPU one thread a process is several times faster than two threads in one; with a GPU, ``--device cuda``
and no torchrun. Each stage resumes from ``data/runs`` after a kill and
writes its part of the diffusers folder ``assets/mini_sdxl`` in float16; figures are in the card (README.md). Where no
checkpoint is left, ``unet`` goes on from the weights in the folder: delete ``assets/mini_sdxl/unet`` to start anew.
So did the shipped weights: they are the outcome of the runs that the card lists, one after the other.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import string
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from assets.lab import shards as data
from assets.lab import training
from pipelines.models import sdxl_tiny
from pipelines.worlds import grammar, portrait

HERE = Path(__file__).parent
RUNS = Path("data/runs")
SEED = 0


def to_signed(pictures: numpy.ndarray, device: str) -> Tensor:
    """uint8 (B, 3, H, W) to float in [-1, 1]."""
    return torch.from_numpy(pictures.copy()).to(device).float() / 127.5 - 1


# --------------------------------------------------------------------------------------- autoencoder


def crops(worlds: list[training.Pictures], step: int, batch: int, size: int) -> numpy.ndarray:
    """A batch of random crops; faces have the finer detail, so five of eight come from portraits."""
    rng = numpy.random.default_rng((SEED, step))
    filled = [world for world in worlds if len(world)]
    chosen = []
    for place in range(batch):
        world = filled[-1] if (place + step) % 8 < 5 else filled[0]
        picture = world.picture(int(rng.integers(len(world))))
        top, left = rng.integers(0, picture.shape[1] - size + 1, 2)
        crop = picture[:, top : top + size, left : left + size]
        chosen.append(crop[:, :, ::-1] if rng.random() < 0.5 else crop)
    return numpy.stack(chosen)


def train_vae(minutes: float, device: str) -> None:
    torch.manual_seed(SEED)
    model = sdxl_tiny.vae().to(device, memory_format=torch.channels_last)
    worlds = [training.Pictures(Path("data"), name) for name in ("tabletop", "portrait")]

    def step(number: int) -> Tensor:
        if training.turn(number) % 100 == 0:
            for world in worlds:
                world.refresh()
        image = to_signed(crops(worlds, number, 8, 64), device).contiguous(memory_format=torch.channels_last)
        with training.autocast(device):
            latents = model.encode(image).latents
            # A little noise makes neighbouring latents mean neighbouring pictures, which diffusion needs.
            drawn = model.decode(latents + 0.03 * torch.randn_like(latents)).sample
        drawn = drawn.float()
        sharp = sum((a - b).abs().mean() for a, b in zip(training.edges(drawn), training.edges(image), strict=True))
        keep_small = 1e-3 * latents.float().square().mean()  # the decoder squashes beyond 3
        return (drawn - image).abs().mean() + F.mse_loss(drawn, image) + sharp + keep_small

    def report(average: torch.nn.Module) -> str:
        with torch.no_grad():
            scores = []
            for world in worlds:
                if not len(world):
                    continue
                image = to_signed(numpy.stack([world.picture(i) for i in range(8)]), device)
                latents = average.encode(image).latents
                error = F.mse_loss(average.decode(latents).sample.clamp(-1, 1), image)
                scores.append(f"{world.name} PSNR {10 * torch.log10(4 / error):.2f} std {latents.std():.2f}")
        return ", ".join(scores)

    model, facts = training.train(
        model,
        step,
        minutes,
        RUNS / "vae.pt",
        1.5e-3,
        SEED,
        report=report,
        report_every=200,
        weight_decay=1e-4,
        decay=0.995,
    )
    centre(model, worlds, device)
    save_vae(model)
    training.write_json(RUNS / "vae.json", facts)
    print(json.dumps(facts))


SPREAD = 0.6  # standard deviation of raw latents; small enough for the decoder's soft limit at 3 to be almost linear


@torch.no_grad()
def centre(model, worlds: list[training.Pictures], device: str) -> None:
    """Fold mean and spread of the latents into the weights: afterwards every channel has mean 0 and deviation SPREAD.

    Diffusion starts from noise of mean 0 in every channel, so latents that sit elsewhere would handicap it. Exact for
    the encoder. The decoder's soft limit makes it approximate there, which the stage ``decoder`` then repairs.
    """
    image = to_signed(numpy.stack([w.picture(i) for w in worlds if len(w) for i in range(0, 2000, 8)]), device)
    latents = torch.cat([model.encode(part).latents for part in image.split(25)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    last, first = model.encoder.layers[-1], model.decoder.layers[0]
    last.weight.mul_((SPREAD / deviation).view(-1, 1, 1, 1))
    last.bias.sub_(mean).mul_(SPREAD / deviation)
    first.bias.add_((first.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3)))
    first.weight.mul_((deviation / SPREAD).view(1, -1, 1, 1))


def save_vae(model) -> None:
    """Write the autoencoder in float16."""
    model.register_to_config(scaling_factor=1 / SPREAD)
    copy.deepcopy(model).half().save_pretrained(HERE / "vae", max_shard_size="9MB")
    settings = json.loads((HERE / "vae" / "config.json").read_text())
    del settings["block_out_channels"]  # set again at load; in the file it only makes diffusers warn
    settings.pop("_name_or_path", None)  # a path of this machine
    training.write_json(HERE / "vae" / "config.json", settings)


def train_decoder(minutes: float, device: str) -> None:
    """Train the decoder on, on whole pictures, with the encoder frozen: latents that were computed stay valid."""
    model = AutoencoderTiny.from_pretrained(HERE / "vae", torch_dtype=torch.float32).to(device)
    model = model.to(memory_format=torch.channels_last)
    worlds = [training.Pictures(Path("data"), name) for name in ("tabletop", "portrait")]

    def step(number: int) -> Tensor:
        image = to_signed(crops(worlds, 10**6 + number, 6, 96), device).contiguous(memory_format=torch.channels_last)
        with training.autocast(device), torch.no_grad():
            latents = model.encode(image).latents
        with training.autocast(device):
            drawn = model.decode(latents + 0.02 * torch.randn_like(latents)).sample.float()
        sharp = sum((a - b).abs().mean() for a, b in zip(training.edges(drawn), training.edges(image), strict=True))
        return (drawn - image).abs().mean() + F.mse_loss(drawn, image) + sharp

    model.encoder.requires_grad_(False)
    model, facts = training.train(model, step, minutes, RUNS / "decoder.pt", 6e-4, SEED, weight_decay=1e-4, decay=0.995)
    save_vae(model)
    training.write_json(RUNS / "decoder.json", facts)
    print(json.dumps(facts))


# ----------------------------------------------------------------------------- words and text encoders


def make_tokenizer():
    """A CLIPTokenizer in which every word of our captions is one token; other words fall into pieces."""
    known = sorted({*grammar.vocabulary(), *portrait.vocabulary()})
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel(False)
    special = ["<|startoftext|>", "<|endoftext|>", "<|unknown|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    pieces = sorted({piece for word in known for piece in word.split("-")})
    learner.train_from_iterator([*pieces * 2, *string.ascii_lowercase * 2, *string.digits * 2, *",.-" * 2], trainer)
    model = json.loads(learner.to_str())["model"]
    return CLIPTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token="<|unknown|>",
        model_max_length=sdxl_tiny.TOKENS,
    )


def tokens(tokenizer, captions: list[str]) -> Tensor:
    """Padded token ids (B, TOKENS)."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def text_heads() -> dict[str, int]:
    """What the text encoders are first taught to tell from a caption: name -> number of answers (0 = not said)."""
    heads = {"world": 2, "count": 4, "relation": len(grammar.RELATIONS) + 1}
    heads |= {"floor": len(grammar.FLOORS) + 1, "backdrop": len(grammar.BACKDROPS) + 1}
    for place in (*range(3), "left", "right"):
        heads |= {f"{place} shape": len(grammar.SHAPES) + 1, f"{place} colour": len(grammar.COLOURS) + 1}
        heads |= {f"{place} finish": len(grammar.FINISHES) + 1}
    return heads | {name: len(values) + 1 for name, values in portrait.ATTRIBUTES.items()}


def text_answers(caption: str, is_portrait: bool) -> dict[str, int]:
    """The right answers for one caption of our own grammar."""

    def index(values, value) -> int:
        return 0 if value is None else values.index(value) + 1

    answers = dict.fromkeys(text_heads(), 0)
    if is_portrait:
        said = portrait.parse(caption)
        return answers | {"world": 1} | {n: index(v, said.get(n)) for n, v in portrait.ATTRIBUTES.items()}
    asked = grammar.parse(caption)
    answers |= {"count": len(asked.things), "relation": index(grammar.RELATIONS, asked.relation)}
    answers |= {"floor": index(grammar.FLOORS, asked.floor), "backdrop": index(grammar.BACKDROPS, asked.backdrop)}
    places: dict[object, grammar.Thing] = dict(enumerate(asked.things))
    if asked.relation in ("left", "right"):
        places["left"], places["right"] = asked.things if asked.relation == "left" else asked.things[::-1]
    for place, thing in places.items():
        answers[f"{place} shape"] = index(grammar.SHAPES, thing.shape)
        answers[f"{place} colour"] = index(grammar.COLOURS, thing.colour)
        answers[f"{place} finish"] = index(grammar.FINISHES, thing.finish)
    return answers


def random_caption(rng: random.Random) -> tuple[str, bool]:
    """A caption of either world, and whether it is a portrait's."""
    if rng.random() < 0.3:
        return portrait.caption(portrait.sample(rng.randrange(10**9)), rng), True
    return grammar.phrase(grammar.random_request(rng, rng.choices((1, 2, 3), (0.35, 0.5, 0.15))[0]), rng), False


class TextTeacher(torch.nn.Module):
    """Both text encoders with linear read-outs at the places where SDXL takes its conditioning from:
    the last but one hidden states (at the end of the text) and the second encoder's projected embedding."""

    def __init__(self, first, second) -> None:
        super().__init__()
        self.first, self.second = first, second
        width = first.config.hidden_size + second.config.hidden_size
        heads = text_heads()
        self.from_tokens = torch.nn.ModuleDict({n: torch.nn.Linear(width, k) for n, k in heads.items()})
        self.from_pooled = torch.nn.ModuleDict(
            {n: torch.nn.Linear(second.config.projection_dim, k) for n, k in heads.items()}
        )

    def embed(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt embeddings (B, T, D) and pooled embedding (B, P), as StableDiffusionXLPipeline makes them."""
        one, two = (encoder(ids, output_hidden_states=True) for encoder in (self.first, self.second))
        return torch.cat((one.hidden_states[-2], two.hidden_states[-2]), -1), two.text_embeds

    def forward(self, ids: Tensor) -> list[dict[str, Tensor]]:
        states, pooled = self.embed(ids)
        ends = (ids == self.second.config.eos_token_id).int().argmax(1)
        at_end = states[torch.arange(len(ids), device=ids.device), ends]
        at_last = states[:, -1]
        read = {n: self.from_tokens[n] for n in self.from_tokens}
        return [
            {n: head(at_end) for n, head in read.items()},
            {n: head(at_last) for n, head in read.items()},
            {n: self.from_pooled[n](pooled) for n in self.from_pooled},
        ]


def make_teacher(tokenizer) -> TextTeacher:
    torch.manual_seed(SEED)
    encoders = sdxl_tiny.text_encoders(
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    return TextTeacher(*encoders)


def train_text(minutes: float, device: str) -> None:
    tokenizer = make_tokenizer()
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer.save_pretrained(HERE / name)
    teacher = make_teacher(tokenizer).to(device)

    def batch(seed: str, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = random.Random(seed)
        captions = [random_caption(rng) for _ in range(size)]
        answers = [text_answers(*caption) for caption in captions]
        wanted = {n: torch.tensor([a[n] for a in answers], device=device) for n in answers[0]}
        return tokens(tokenizer, [text for text, _ in captions]).to(device), wanted

    def step(number: int) -> Tensor:
        ids, wanted = batch(f"text {SEED} {number}", 64)
        with training.autocast(device):
            readings = teacher(ids)
        return sum(F.cross_entropy(r[n].float(), wanted[n]) for r in readings for n in wanted) / len(readings)

    @torch.no_grad()
    def report(average: torch.nn.Module) -> str:
        ids, wanted = batch("text check", 512)
        shares = [{n: (r[n].argmax(1) == wanted[n]).float().mean().item() for n in wanted} for r in average(ids)]
        return ", ".join(
            f"mean {sum(s.values()) / len(s):.4f} worst {min(s, key=s.get)} {min(s.values()):.3f}" for s in shares
        )

    teacher, facts = training.train(
        teacher, step, minutes, RUNS / "text.pt", 2e-3, SEED, report=report, report_every=200
    )
    facts["reading"] = report(teacher)
    for name, encoder in (("text_encoder", teacher.first), ("text_encoder_2", teacher.second)):
        encoder.half().save_pretrained(HERE / name)
        # Stored in float16, but a plain from_pretrained should give float32, as it does for the other parts.
        config = HERE / name / "config.json"
        training.write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})
    training.write_json(RUNS / "text.json", facts)
    print(json.dumps(facts))


# --------------------------------------------------------------------------------------------- UNet


def pictures(world: training.Pictures, number: int) -> numpy.ndarray:
    """The pictures of a shard; of portraits also the mirror images, after them."""
    found = numpy.asarray(world.arrays[number])
    return numpy.concatenate((found, found[..., ::-1])) if world.name == "portrait" else found


class Latents:
    """Scaled latents of every cached picture, encoded once and kept beside the pictures."""

    def __init__(self, device: str) -> None:
        self.vae = AutoencoderTiny.from_pretrained(HERE / "vae", torch_dtype=torch.float32).eval().to(device)
        self.vae = self.vae.to(memory_format=torch.channels_last)
        self.worlds = [training.Pictures(Path("data"), name) for name in ("tabletop", "portrait")]
        weights = b"".join(p.detach().cpu().numpy().tobytes() for p in self.vae.encoder.parameters())
        self.mark = hashlib.sha256(weights).hexdigest()
        self.rows: dict[str, Tensor] = {}
        self.scenes: dict[str, list] = {}
        self.usable: dict[str, list[int]] = {}
        self.taken: set[tuple[str, int]] = set()
        self.device = device
        self.refresh(4)

    @torch.no_grad()
    def encode(self, pictures: numpy.ndarray) -> Tensor:
        """Scaled latents (N, 4, 32, 32) of pictures (N, 3, 128, 128), uint8."""
        parts = []
        for part in numpy.array_split(pictures, max(1, len(pictures) // 25)):
            image = to_signed(part, self.device).contiguous(memory_format=torch.channels_last)
            with training.autocast(self.device):
                parts.append(self.vae.encode(image).latents.float().cpu())
        return torch.cat(parts) * self.vae.config.scaling_factor

    def refresh(self, most: int) -> None:
        """Take in shards that have come since the last look, at most ``most`` of each world; a new shard takes
        some seconds on a CPU, one that was encoded before none. Portraits, of which there are fewer, come with their
        mirror images: their captions say nothing of left and right, so they stay true."""
        for world in self.worlds:
            world.refresh()
            module, fresh = data.world(world.name), 0
            for place, number in enumerate(world.numbers):
                if (world.name, number) in self.taken or fresh == most:
                    continue
                path = Path("data") / f"latents-{world.name}-{number:03d}.pt"
                stored = torch.load(path, weights_only=True) if path.exists() else None
                if stored is None or stored["mark"] != self.mark:
                    stored = {"mark": self.mark, "latents": self.encode(pictures(world, number))}
                    scratch = path.with_suffix(f".{os.getpid()}.tmp")
                    torch.save(stored, scratch)
                    scratch.rename(path)
                scenes = [module.sample(world.seed(place * data.PER_SHARD + i)) for i in range(data.PER_SHARD)]
                copies = len(stored["latents"]) // len(scenes)
                self.scenes.setdefault(world.name, []).extend(scenes * copies)
                earlier = [self.rows[world.name]] if world.name in self.rows else []
                self.rows[world.name] = torch.cat([*earlier, stored["latents"]])
                self.taken.add((world.name, number))
                # Three things at once are left to a larger model.
                self.usable[world.name] = [
                    i for i, scene in enumerate(self.scenes[world.name]) if len(getattr(scene, "solids", ())) < 3
                ]
                fresh += 1


def encode_all(minutes: float, device: str) -> None:
    """Encode every cached picture now, rather than while the UNet trains."""
    Latents(device).refresh(10**6)


def conditioning(teacher, ids: Tensor, dropped: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the pipeline hands the UNet: zeros stand for the empty prompt, as in SDXL."""
    keep = (~dropped).float()
    with torch.no_grad(), training.autocast(str(ids.device)):
        states, pooled = teacher.embed(ids)
    size = float(sdxl_tiny.SIZE)
    time_ids = torch.tensor([size, size, 0.0, 0.0, size, size], device=ids.device).expand(len(ids), -1)
    return states.float() * keep.view(-1, 1, 1), {
        "text_embeds": pooled.float() * keep.view(-1, 1),
        "time_ids": time_ids,
    }


def readers(device: str):
    """Tokenizer and the trained text encoders, from the stage ``text``; without its checkpoint, from the folder."""
    tokenizer = CLIPTokenizer.from_pretrained(HERE / "tokenizer")
    if (RUNS / "text.pt").exists():
        teacher = make_teacher(tokenizer)
        teacher.load_state_dict(torch.load(RUNS / "text.pt", map_location="cpu", weights_only=True)["average"])
    else:
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        parts = (kind.from_pretrained(HERE / part, torch_dtype=torch.float32) for part, kind in kinds.items())
        teacher = TextTeacher(*parts)  # its read-outs are new; only the embeddings are used
    return tokenizer, teacher.to(device).eval()


def export(minutes: float, device: str) -> None:
    """Write the pipeline from the UNet's last checkpoint, while or after it trains."""
    model = sdxl_tiny.unet()
    model.load_state_dict(torch.load(RUNS / "unet.pt", map_location="cpu", weights_only=True)["average"])
    vae = AutoencoderTiny.from_pretrained(HERE / "vae", torch_dtype=torch.float32)
    tokenizer, teacher = readers("cpu")
    save_pipeline(assemble(model, vae, teacher, tokenizer))


def begun() -> tuple[UNet2DConditionModel, list[dict]]:
    """The UNet that training begins with, and the runs that made its weights: none of a new one."""
    shipped = HERE / "unet"
    if (RUNS / "unet.pt").exists() or not shipped.exists():  # a checkpoint of this machine goes before
        return sdxl_tiny.unet(), []
    print(f"going on from the weights in {shipped}", flush=True)
    run = training.read_json(HERE / "manifest.json").get("training", {}).get("unet", {})
    earlier = [*run.pop("earlier", []), run]
    return UNet2DConditionModel.from_pretrained(shipped, torch_dtype=torch.float32), earlier


def examples(latents: Latents, rng: random.Random, batch: int) -> tuple[Tensor, list[str]]:
    """Scaled latents (B, 4, 32, 32) and captions, of two portraits to eight tabletop scenes."""
    rows, captions = [], []
    names = [name for name in latents.rows if len(latents.scenes[name])]
    for place in range(batch):
        name = names[-1] if place % 10 < 2 else names[0]
        index = rng.choice(latents.usable[name])
        rows.append(latents.rows[name][index])
        captions.append(data.world(name).caption(latents.scenes[name][index], rng))
    return torch.stack(rows), captions


def sheet(pipe: StableDiffusionXLPipeline) -> str:
    """Draw the same 18 captions each time."""
    pipe.set_progress_bar_config(disable=True)
    rng = random.Random("unet report")
    prompts = [random_caption(rng)[0] for _ in range(18)]
    generator = [torch.Generator().manual_seed(i) for i in range(18)]
    drawn = pipe(prompts, num_inference_steps=15, guidance_scale=4.0, generator=generator, output_type="pt").images
    save_image(drawn, RUNS / "unet.png", nrow=6)
    return f"wrote {RUNS / 'unet.png'}"


def train_unet(minutes: float, device: str, batch: int = 32) -> None:
    tokenizer, teacher = readers(device)
    torch.manual_seed(SEED)
    model, earlier = begun()
    model = model.to(device, memory_format=torch.channels_last)
    scheduler = DDIMScheduler(**sdxl_tiny.sampler(sdxl_tiny.BETA_STEPS))
    signal = scheduler.alphas_cumprod.to(device)
    latents = Latents(device)

    def step(number: int) -> Tensor:
        if number and training.turn(number) % 100 == 0:
            latents.refresh(1)
        rng = random.Random(f"unet {SEED} {number}")
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        clean, captions = examples(latents, rng, batch)
        noisy, steps, velocity, weight = training.noised(clean.to(device), signal, generator)
        dropped = torch.tensor([rng.random() < 0.1 for _ in range(batch)], device=device)
        states, added = conditioning(teacher, tokens(tokenizer, captions).to(device), dropped)
        with training.autocast(device):
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = model(noisy, steps, states, added_cond_kwargs=added).sample.float()
        return (weight * (predicted - velocity) ** 2).mean() / weight.mean()

    model, facts = training.train(
        model,
        step,
        minutes,
        RUNS / "unet.pt",
        1.2e-3,
        SEED,
        warmup=300,
        report=lambda average: sheet(assemble(average, latents.vae, teacher, tokenizer)),
        report_every=1000,
        weight_decay=1e-3,
        decay=0.995,
    )
    rank, processes = training.rank_and_size()
    facts |= {"processes": processes, "batch": batch * processes}
    if earlier:  # the runs that made the weights this one began with
        facts["earlier"] = earlier
    if rank:
        return
    training.write_json(RUNS / "unet.json", facts)
    save_pipeline(assemble(model, latents.vae, teacher, tokenizer))
    print(json.dumps(facts))


def assemble(unet, vae, teacher, tokenizer):
    """The plain diffusers pipeline around the trained parts."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=teacher.first,
        text_encoder_2=teacher.second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**sdxl_tiny.sampler()),
        add_watermarker=False,
    )


def save_pipeline(pipe) -> None:
    """Write UNet, scheduler and index; the other parts were written by their own stages."""
    pipe.unet.half().save_pretrained(HERE / "unet", max_shard_size="9MB")
    pipe.scheduler.save_pretrained(HERE / "scheduler")
    pipe.save_config(HERE)
    facts = training.read_json(HERE / "manifest.json").get("training", {})
    facts |= {
        name: found
        for name in ("vae", "decoder", "text", "unet")
        if (found := training.read_json(RUNS / f"{name}.json"))
    }
    training.write_manifest(HERE, {"training": facts})


STAGES = {
    "vae": train_vae,
    "decoder": train_decoder,
    "text": train_text,
    "latents": encode_all,
    "unet": train_unet,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=0.0, help="of training in all, over every start")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    random.seed(SEED)
    STAGES[arguments.stage](arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
