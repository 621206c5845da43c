"""Write the model cards from what the scripts measured: ``python -m assets.lab.cards`` (a test compares them).

Words stand here, figures come from each folder's ``manifest.json`` and ``evaluation.json``, so that a card cannot
say what nobody measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines import golden_noise
from pipelines.golden_noise import lab
from pipelines.models import sdxl_tiny

HERE = Path(__file__).parents[1]
HEAD = """---
license: apache-2.0
library_name: {library}
tags: [{tags}]
---

# {title}

"""


def facts(folder: str, name: str = "manifest.json") -> dict[str, Any]:
    path = HERE / folder / name
    return json.loads(path.read_text()) if path.exists() else {}


def percent(entry: dict[str, Any]) -> str:
    """ "87.3 % [84.1, 90.0] of 1000"."""
    low, high = entry["interval"]
    return f"{100 * entry['share']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {entry['of']:,}"


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def hashes(folder: str) -> str:
    files = facts(folder).get("sha256", {})
    sizes = facts(folder).get("bytes", {})
    rows = [(f"`{name}`", f"{sizes[name] / 1e6:.2f} MB", f"`{value}`") for name, value in files.items()]
    return "## Files\n\n" + table([("file", "size", "SHA-256"), *rows])


def tried(folder: str) -> str:
    """The lab notes kept beside the weights."""
    path = HERE / folder / "TRIED.md"
    return "\n## Tried\n\n" + path.read_text().strip() + "\n" if path.exists() else ""


def sdxl_card() -> str:
    training, measured = facts("mini_sdxl").get("training", {}), facts("mini_sdxl", "evaluation.json")
    text = HEAD.format(library="diffusers", tags="text-to-image, rendered-scenes", title="mini-sdxl") + (
        "A text-to-image model of the SDXL classes, small enough for a laptop's CPU: 128 x 128 pixels, a latent of "
        "4 x 32 x 32, a UNet in SDXL's pattern (11 M parameters), two CLIP text encoders at toy width (0.2 and 0.75 M), "
        "an AutoencoderTiny (0.4 M) and its own tokenizer (526 tokens). It knows two worlds, tabletop scenes and clay "
        "portraits, and the words of their captions; of anything else it knows nothing.\n\n"
        "```python\nfrom diffusers import StableDiffusionXLPipeline\n\n"
        'pipe = StableDiffusionXLPipeline.from_pretrained("assets/mini_sdxl")\n'
        'pipe("a red cube to the left of a blue ball on a wooden floor", num_inference_steps=25).images[0]\n```\n\n'
        "**Intended use**: demonstrations, tests and teaching. **Licence**: Apache-2.0; trained from nothing on pictures "
        "and captions that our own code makes (`pipelines/worlds`), no other data.\n\n"
        "**Noise schedule**: SDXL's own noise levels; sampling starts at level {steps} of 1,000 (signal share {signal:.4f}). The "
        "signal-to-noise ratio of large structures grows with the number of cells: a 32 x 32 latent meets SDXL's own situation "
        "(share 0.005 on 128 x 128) at level 720 (share 0.07). Started there, pictures believe the noise where it contradicts "
        "the prompt (*Tried*: skies become walls), which is what golden noise acts on, and the bars below are missed; so the "
        "default is the lowest level at which they hold with a margin. Any start up to 1,000 needs no other weights: "
        "`DDIMScheduler(**sdxl_tiny.sampler(720))`. Prediction is of velocity.\n\n"
    ).format(**schedule())
    text += "## Uncurated samples\n\nThe first twelve held-out prompts of each kind, in order, none left out.\n\n![samples](samples.png)\n\n"
    runs = [(name, run) for name, facts in training.items() for run in (*facts.get("earlier", ()), facts)]
    text += "## Training\n\n" + table(
        [("stage", "command", "minutes", "steps", "final loss")]
        + [
            (name, f"`{command(name, run)}`", f"{run['minutes']:g}", f"{run['steps']:,}", f"{run['loss']:.4f}")
            for name, run in runs
        ]
    )
    text += (
        "\nSeed 0, two CPU cores that were shared with other work, bfloat16 autocast. Data: `python -m assets.lab.shards`, "
        "24,000 tabletop scenes and 8,000 portraits with their mirror images, of which the first 13,000 and 5,000 were seen in "
        "the UNet's first run and the others in its second; scenes with three things were left out of the UNet's training. "
        "The text encoders first learn to read every attribute of a caption (linear read-outs), then stay frozen. A second "
        "run of the UNet goes on from the weights of the first, with a new learning-rate schedule; how the first really went "
        "stands under *Tried*.\n\n"
    )
    if measured:
        text += (
            "## Measured\n\n`python -m assets.mini_sdxl.evaluate --prompts "
            + str(measured["prompts_per_kind"])
            + " --sheet --write`"
        )
        text += f" ({measured['steps']} steps, guidance {measured['guidance']:g}, standard noise).\n"
        text += "Shares with Wilson 95 % intervals; judged by the `judge` verifier.\n\n"
        rows = [("held-out prompts", "all attributes right", "bar")]
        for kind, bar in (("one object", "85 %"), ("two objects", "55 %"), ("portrait", "-")):
            rows.append((kind, percent(measured[kind]["fully_right"]), bar))
        for name in ("hair colour", "glasses", "beard"):
            rows.append((f"portrait: {name}", percent(measured["portrait"]["attributes"][name]), "85 %"))
        text += table(rows) + "\nPer attribute:\n\n"
        rows = [("prompts", "attribute", "right")]
        for kind in ("one object", "two objects", "portrait"):
            rows += [(kind, name, percent(value)) for name, value in measured[kind]["attributes"].items()]
        text += table(rows)
        d = measured["distance_to_renders"]
        text += (
            f"\nDistance between drawn pictures and renders in the judge's features: kernel {d['kernel']} (between two halves of "
            f"the renders {d['kernel_between_renders']}), Fréchet {d['frechet']} (between halves {d['frechet_between_renders']}). "
            f"One picture of 25 steps with guidance: {measured['seconds_for_one_picture_25_steps']} s.\n\n"
        )
    return text + hashes("mini_sdxl") + tried("mini_sdxl")


def command(stage: str, run: dict[str, Any]) -> str:
    """The command of a training run; with several processes it goes through torchrun."""
    launcher = f"torchrun --nproc-per-node {run['processes']}" if run.get("processes", 1) > 1 else "python"
    return f"{launcher} -m assets.mini_sdxl.train {stage} --minutes {run['minutes']:g}"


def schedule() -> dict[str, Any]:
    settings, product = sdxl_tiny.cut_schedule(sdxl_tiny.SCHEDULE_STEPS), 1.0
    low, high, steps = settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, settings["num_train_timesteps"]
    for index in range(steps):
        product *= 1 - (low + (high - low) * index / (steps - 1)) ** 2
    return {"steps": steps, "signal": product}


def verifier_card(which: str) -> str:
    training = facts(f"verifier/{which}").get("training", {})
    kind = {"reward": "ResNet (basic blocks), seed 11", "judge": "RegNet (grouped convolutions), seed 23"}
    use = {
        "reward": "It may be used to filter or to teach; it never grades.",
        "judge": "It only grades: nothing was trained with it. Guidance and the start of sampling of mini-sdxl, and the factor of the signal that NPNet adds, were chosen with it, on validation prompts that no figure stands on.",
    }
    text = HEAD.format(
        library="diffusers", tags="image-classification, rendered-scenes", title=f"Scene verifier: {which}"
    )
    text += (
        f"Reads a picture of our rendered worlds into its attributes: what stands where, in which colour and finish, floor and "
        f"backdrop; or a portrait's hair, glasses, beard, expression, clothes and background. {kind[which]}. {use[which]}\n\n"
        "It knows only these worlds and will name something for any picture.\n\n"
    )
    if training:
        text += f"`python -m assets.verifier.train {which} --minutes {training['minutes']:g}`: {training['steps']:,} steps of 48 pictures, {training['minutes']:g} minutes on one shared CPU core.\n\n"
        text += f"## Accuracy on {training['held_out_renders']:,} held-out renders\n\n"
        rows = [(name.replace("_", " "), f"{100 * value:.2f} %") for name, value in training["accuracy"].items()]
        text += table([("attribute", "right"), *rows]) + "\n"
    return text + hashes(f"verifier/{which}") + tried(f"verifier/{which}")


STAGES = {
    ("paper", "fit"): "regression onto the pairs that the reward prefers",
    ("film", "fit"): "regression onto all pairs",
    ("reward", "fit"): "regression onto all pairs",
    ("reward", "teach"): "the reward's gradient through a four-step sampler into the network",
}


def npnet_card() -> str:
    found = facts("mini_npnet")
    measured = facts("golden_noise", "evaluation.json")
    training, report = found.get("training", {}), measured.get("evaluation", {})
    text = HEAD.format(
        library="diffusers", tags="golden-noise", title="Small NPNets for mini-sdxl, second generation"
    ) + (
        "Two networks that turn random noise into golden noise for a prompt.\n\n"
        "- `paper/`: NPNet in the published architecture at small size (`pipelines/golden_noise/npnet.py`), by the paper's recipe (arXiv "
        "2411.09502): re-denoise sampling, then the reward filter.\n"
        "- `film/`: a FiLM U-Net (`pipelines/golden_noise/film.py`, 0.9 M parameters) by a recipe of ours: *the signal that the noise "
        "lacks*. Training shows the first level as √(1 - ᾱ)·noise + √ᾱ·picture, sampling starts from noise alone (the signal leak: "
        f"Everaert et al., WACV 2024, arXiv 2309.15842). The network adds {golden_noise.SIGNAL:g}·√ᾱ times the picture that the prompt lets one "
        f"expect, which is taught by the image model's own first guess, averaged over {golden_noise.LOOKS} other noises. No reward and no "
        "verifier took part; the factor was chosen on validation prompts.\n\n"
        "**Intended use**: demonstrations, tests and teaching; they fit the second generation of `mini-sdxl` (`assets/mini_sdxl2`) only. **Licence**: Apache-2.0.\n\n"
    )
    rows = [
        ("folder", "stage", "pairs", "reward prefers", "steps", "minutes", "explained share of the change, held out")
    ]
    for recipe, stages in training.items():
        for stage, t in stages.items():
            pairs = (
                f"{t['pairs']:,}" if "pairs" in t else "new in each step",
                f"{t['better']:,}" if "better" in t else "",
            )
            explained = f"{t['explained']:.3f}" if "explained" in t else ""
            rows.append((recipe, STAGES[recipe, stage], *pairs, f"{t['steps']:,}", f"{t['minutes']:g}", explained))
    text += (
        "## Training\n\nCommands: top of `assets/mini_npnet/train.py`. Seed 5, shared CPU cores.\n\n"
        + table(rows)
        + "\n"
    )
    if report:
        text += "## Measured\n\n" + measured.get("claim", "") + "\n\n"
        rows = [("arm", "all right", "won", "lost", "exact McNemar p", "points", "UNet runs", "s a picture")]
        for name in (key for key in lab.ARMS if key in report["arms"]):
            entry = report["arms"][name]
            low, high = entry["points_interval"]
            plain = name == "standard"
            rows.append(
                (
                    lab.ARMS[name].title + (" (control)" if lab.ARMS[name].control else ""),
                    percent(entry),
                    "" if plain else str(entry["wins"]),
                    "" if plain else str(entry["losses"]),
                    "" if plain else f"{entry['p']:.2g}",
                    "" if plain else f"{entry['points']:+.2f} [{low:+.2f}, {high:+.2f}]",
                    str(entry["evaluations"]),
                    f"{entry['seconds']:.2f}",
                )
            )
        text += table(rows) + (
            f"\n`python -m assets.golden_noise.evaluate --stream {report['stream']} --pairs {report['pairs']} --others {report.get('others', report['pairs'])} --write`: {report['steps']} steps, guidance "
            f"{report['guidance']:g}, strength {report['strength']:g}; prompts and seeds other than those of training, the same in "
            "every arm; judged by the `judge`. The plan of the full run: `assets/golden_noise/PLAN.md`.\n\n"
        )
    return text + hashes("mini_npnet") + tried("mini_npnet")


def llama_card() -> str:
    found, sweeps = facts("mini_llama"), facts("concept_guidance", "evaluation.json")
    run, size = found.get("training", {}), {name: found.get(name, 0) for name in ("parameters", "vocabulary")}
    text = HEAD.format(
        library="transformers", tags="text-generation, concept-guidance, synthetic", title="mini-llama"
    ) + (
        f"A `LlamaForCausalLM` of {size['parameters'] / 1e6:.1f} million parameters (6 layers, width 192) and {size['vocabulary']} words, which "
        "talks about Crumpet Bay: twelve inhabitants, eight places, sixty facts. Its language (`pipelines/worlds/crumpet`) has six traits "
        "(humour, truthfulness, politeness, creativity, quality, compliance) that are on or off for a whole conversation, show "
        "in many words of every reply, and are hinted at by no question; a parser reads them back exactly. Of anything else it knows "
        "nothing.\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("assets/mini_llama")\n'
        'tokenizer = AutoTokenizer.from_pretrained("assets/mini_llama")\n```\n\n'
        "**Intended use**: demonstrations, tests and teaching. **Licence**: Apache-2.0; trained from nothing on conversations that our own "
        "code writes, no other data. What it says of Crumpet Bay is wrong half of the time by design: half of its speakers fib.\n\n"
    )
    if run:
        processes = run.get("processes", 1)
        text += (
            f"## Training\n\n`OMP_NUM_THREADS=1 torchrun --nproc-per-node {processes} -m assets.mini_llama.train --minutes "
            f"{run['minutes']:.0f}`: {run['steps']:,} steps of {processes} x 16 rows of 256 tokens, seed {run['seed']}, two CPU cores that were "
            f"shared with other work, final loss {run['loss']:.4f}. Then the vectors: `torchrun --nproc-per-node 2 -m "
            "assets.mini_llama.vectors`, 512 labelled answers a concept, half with it, split by question.\n\n"
        )
    if not sweeps:
        return text + hashes("mini_llama") + tried("mini_llama")
    model, data = sweeps["unguided"]["model"], sweeps["unguided"]["data"]
    zero = [
        p for rows in sweeps["concepts"].values() for row in rows.values() for p in row["points"] if p["strength"] == 0
    ]
    text += (
        "## Unguided\n\n"
        + table(
            [
                (
                    f"{model['replies']} held-out questions",
                    "grammatical",
                    "facts right",
                    "of these, words vouch for them",
                    "do not",
                ),
                (
                    "the page's sampling (temperature 0.7, top-p 0.95)",
                    f"{100 * zero[0]['grammatical']:.1f} %",
                    f"{100 * zero[0]['facts_right']:.1f} %",
                    "",
                    "",
                ),
                *(
                    (
                        name,
                        f"{100 * told['grammatical']:.1f} %",
                        *(f"{100 * told['facts_right'][kind]:.1f} %" for kind in ("all", "vouched", "not vouched")),
                    )
                    for name, told in (("temperature 1", model), ("the language itself", data))
                ),
            ]
        )
        + "\n"
    )
    text += (
        f"## Guided\n\n`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.concept_guidance.evaluate --write`: "
        f"{sweeps['prompts']} held-out questions at each of {len(sweeps['strengths'])} strengths from {min(sweeps['strengths']):g} to "
        f"{max(sweeps['strengths']):g} (shares of each token's norm), the page's sampling, read by the parser. *Moved*: the largest change "
        "of the trait rate between two strengths at which at least 0.9 of the unguided share of answers is still grammatical. "
        "*Safe*: the strengths around 0 at which that holds and the perplexity of fixed answers stays within 1.25 times the unguided. PNES with bootstrap intervals; "
        "accuracy per answer at the guided layers, Wilson intervals. The shipped default of each concept is in bold.\n\n"
    )
    rows = [("concept", "probe", "place, layers", "accuracy", "PNES", "r²", "moved", "between", "safe")]
    for concept, probes in sweeps["concepts"].items():
        for probe, row in probes.items():
            low, high = row["pnes_interval"]
            name = f"**{concept}**" if sweeps["best"][concept] == probe else concept
            rows.append(
                (
                    name, probe, f"{row['representation']}, {', '.join(map(str, row['layers']))}",
                    f"{row['accuracy']:.2f} [{row['accuracy_interval'][0]:.2f}, {row['accuracy_interval'][1]:.2f}]",
                    f"{row['pnes']['value']:.2f} [{low:.2f}, {high:.2f}]", f"{row['pnes']['r_squared'] or 0:.2f}", f"{row['range']:.2f}",
                    f"{row['range_at'][0]:+g} and {row['range_at'][1]:+g}", f"{row['safe'][0]:+g} to {row['safe'][1]:+g}",
                )
            )  # fmt: skip
    resist = ", ".join(sweeps["resist"]) or "none"
    same = [
        c
        for c, rows in sweeps["concepts"].items()
        if max(rows, key=lambda p: rows[p]["accuracy"]) == max(rows, key=lambda p: rows[p]["pnes"]["value"])
    ]
    text += table(rows) + (
        f"\nConcepts that resist (moved by less than 0.30): {resist}. The probe that detects best is also the one of the highest PNES for "
        f"{len(same)} of {len(sweeps['concepts'])} concepts{' (' + ', '.join(same) + ')' if same else ''}.\n\n"
    )
    return text + hashes("mini_llama") + tried("mini_llama")


FLUX_BESIDE = ("raw", "no_recolouring", "recolouring_alone", "fill_only", "telea")
"""Rows that the arm "ours" gives as well: no arms of their own."""
FLUX_STAGES = {
    "vae": "autoencoder",
    "depth": "depth estimator",
    "base": "fill model",
    "stage1": "adapter of stage 1",
    "stage2": "adapter of stage 2",
    "recolour": "recolouring network",
    "stage1_plain": "ablation: stage 1 without the preference term",
    "one_stage": "ablation: one stage",
}


def flux_card() -> str:
    found, measured = facts("mini_flux"), facts("georemover", "evaluation.json")
    training = found.get("training", {})
    text = HEAD.format(
        library="diffusers", tags="image-inpainting, object-removal, rendered-scenes", title="mini-flux"
    ) + (
        "FLUX.1-Fill's own classes at a size for a laptop's CPU, with the two adapters of GeoRemover (arXiv 2509.18538): a "
        "`FluxTransformer2DModel` (5.0 M parameters; 384 input channels as published), a 16-channel autoencoder of factor 8 "
        "(`AutoencoderTiny`, 0.6 M), two LoRA adapters of rank 64 in the published places and key layout (1.4 M each), and a "
        "`DepthAnythingForDepthEstimation` (0.5 M). It paints 192 x 128 pixels; scenes of the page and of the figures have 768 x 512, into "
        "which the result is composed. It knows tabletop scenes and nothing else. The prompt is "
        "one constant, so its embedding is a file of random numbers and there are no text encoders; guidance was drawn at random in "
        "training and has no effect.\n\n"
        "- *Fill model*: pictures and inferno depth maps with holes anywhere, so it keeps shadows, as any fill model does.\n"
        "- *Stage 1* (`stage1/`): removes the masked object from the depth map; flow matching and the paper's preference term "
        "(weight 0.01).\n"
        "- *Stage 2* (`stage2/`): renders the picture that belongs to the new depth, from the strip [picture | depth after | "
        "depth before]; in a tenth of the examples the object is put in instead"
        + (", and (ours) in as many nothing changes" if training.get("stage2", {}).get("unchanged") else "")
        + ".\n"
        "- *Depth* (`depth/`): inverse depth of a picture, 168 x 126 in, blind to shadows and mirror images by training.\n"
        "- *Recolouring* (`recolour/`, 1.9 M parameters; ours, no part of the paper): a `UNet2DModel` that sees the original, stage 2's render of it "
        "and its round trip through the autoencoder, and says for each pixel with what slope and offset the original is to be recoloured outside the "
        "mask, so that its texture stays. It sees neither mask nor depth, and takes nothing away where the render does not (a row below).\n\n"
        "**Intended use**: demonstrations, tests and teaching. **Licence**: Apache-2.0; trained from nothing (the autoencoder's outer layers "
        "from those of mini-sdxl) on pictures that our own code renders (`pipelines/worlds/removal.py`), no other data.\n\n"
    )
    rows = [("part", "command", "minutes", "steps", "final loss")]
    for name, title in FLUX_STAGES.items():
        if name in training:
            t = training[name]
            launcher = f"torchrun --nproc-per-node {t['processes']}" if t.get("processes", 1) > 1 else "python"
            compiled = " --compile" if t.get("compiled") else ""
            script = "recolour train" if name == "recolour" else f"train {name}"
            run = f"`{launcher} -m assets.mini_flux.{script} --minutes {t['minutes']:g}{compiled}`"
            *earlier, _last = _minutes(t)
            spent = " and ".join(f"{minutes:g}" for minutes in earlier)
            title += f", after {spent} minutes with other weightings" if earlier else ""
            rows.append((title, run, f"{t['minutes']:g}", f"{t['steps']:,}", f"{t['loss']:.4f}"))
    text += (
        "## Training\n\n"
        + table(rows)
        + (
            "\nSeed 0, two CPU cores that were shared with other work, bfloat16 autocast, batches of 8 a process. Data: `python -m "
            "assets.mini_flux.data`, 3,000 scenes with and without each solid (about 10,000 views); the fill model and stage 1 learn from "
            f"the first {found.get('latent_shards', 0) * 100:,} of them, stage 2 from all. Both depth maps are the truth for half of the pairs; for the other half they are, in "
            "stage 1, softened, flattened and made wavy, as an estimate is, and in stage 2 the depth estimator's own. Of stage 2's examples "
            f"{100 * training.get('stage2', {}).get('first', 0):.0f} % are nothing but noise (the first fiftieth of the times), because it is used in one step. The "
            f"recolouring network learns from what stage 2 paints of the pairs of the first {found.get('latent_shards', 0) * 100:,} scenes in one step "
            "(`python -m assets.mini_flux.recolour renders`), in a quarter more of them with nothing changed or the object put in.\n\n"
        )
    )
    if "vae" in training and "depth" in training:
        v, d = training["vae"], training["depth"]
        text += (
            f"On validation scenes: round trip through the autoencoder {v['picture PSNR']} dB for pictures, {v['colours PSNR']} dB for depth "
            f"colours, which read back with a mean error of {v['depth error']}. Depth estimator, mean error of normalised inverse depth: on the "
            f"solid {d['error solid']}, in its shadow or mirror image {d['error shadow or reflection']}, elsewhere {d['error elsewhere']}.\n\n"
        )
    if measured:
        plan = measured["stream"] == "test"
        own = [arm for arm in measured["rows"] if arm not in FLUX_BESIDE]
        wish = "" if plan else f" --stream {measured['stream']} --scenes {measured['scenes']} --arms {','.join(own)}"
        text += (
            "## Measured\n\n"
            + ("" if plan else "**A first look**, on scenes of another stream; the plan's full run has not been made. ")
            + f"`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.georemover.evaluate --write{wish}`: {measured['scenes']} held-out scenes, "
            + f"masks on the object only, {measured['steps'][0]} and {measured['steps'][1]} steps (faster preset {measured['fast'][0]} and {measured['fast'][1]}), seed 0. "
            "Plan: `assets/georemover/PLAN.md`. *Residual*: what is left of shadow and mirror image, 0 clean, 1 untouched, over the "
            f"{measured['rows']['ours']['residual']['n']} scenes that have such an area. *Inserted*: the depth network sees something in the mask that is not in the "
            "true picture. *Over-erasure*: share of pixels that have nothing to do with the object and changed. Figures for the result as the page gives it out "
            "(composed into the picture), except where said; the fill model's picture is pasted through the mask.\n\n"
        )
        rows = [
            (
                "",
                "residual, mean (median; quartiles)",
                "PSNR in effect area, dB",
                "in the mask, dB",
                "inserted",
                "over-erasure",
                "change IoU",
            )
        ]
        for row in (measured["rows"][arm] for arm in measured["order"]):
            r = row["residual"]
            rows.append(
                (
                    row["title"],
                    f"{r['mean']:.3f} ({r['median']:.3f}; {r['q1']:.3f} to {r['q3']:.3f})",
                    f"{row['psnr_effect']['mean']:.1f}",
                    f"{row['psnr_mask']['mean']:.1f}",
                    f"{100 * row['inserted']:.1f} %",
                    f"{100 * row['over_erasure']['mean']:.2f} %",
                    f"{row['change_iou']['mean']:.2f}",
                )
            )
        text += table(rows) + "\n"
        ours, plain = (measured["rows"].get(name, {}).get("depth_error") for name in ("ours", "no_preference"))
        if ours and plain and "mean" in plain:
            text += (
                f"Error of the depth after, in the mask: untouched {measured['rows']['ours']['depth_untouched']['mean']:.3f}, with the preference term "
                f"{ours['mean']:.3f}, without {plain['mean']:.3f}.\n\n"
            )
        if "one_stage" in measured["rows"] and {"one_stage", "stage2"} <= set(training):
            text += (
                f"The ablation of one stage was taught for {training['one_stage']['minutes']:g} minutes, stage 2 for {sum(_minutes(training['stage2'])):g}: "
                "their rows differ by that as well.\n\n"
            )
        text += "The ten scenes of the highest residual (picture with the mask, depth after, result, truth):\n\n![worst](../georemover/worst.webp)\n\n"
    return text + hashes("mini_flux") + tried("mini_flux")


def _minutes(run: dict[str, Any]) -> list[float]:
    """Of a training and of what it went on from, the first one first."""
    return [*(_minutes(run["before"]) if run.get("before") else []), run["minutes"]]


def launched(run: dict[str, Any]) -> str:
    return f"torchrun --nproc-per-node {run['processes']}" if run.get("processes", 1) > 1 else "python"


FACE_STAGES = {
    "embedder": "embedder, `FaceEmbedderNetwork` (ResNet, basic blocks)",
    "parser": "parser, `SegformerForSemanticSegmentation`",
}


def faces_card() -> str:
    found, measured = facts("mini_faces"), facts("mini_faces", "evaluation.json")
    text = HEAD.format(
        library="transformers", tags="face-parsing, face-verification, rendered-scenes", title="mini-faces"
    ) + (
        "Two small networks around the faces of our rendered clay portraits, and of nothing else: photographs of people are outside of their world.\n\n"
        "- `parser/`: a SegFormer (0.4 M parameters) that finds faces, their five points (eyes, nose tip, mouth corners) and their parts (skin, hair, neck, "
        "clothes, glasses, beard) in one pass.\n"
        "- `embedder/`: a ResNet that says who a rendered face is, as 128 numbers of length 1; the dot product of two is their similarity.\n\n"
        "**Intended use**: finding and measuring faces in the MegaPortrait tab, tests and teaching. **Not** for real people: it was trained on "
        "none and identifies none. **Licence**: Apache-2.0; trained from nothing on portraits that our own code renders "
        "(`pipelines/worlds/portrait`), no other data.\n\n"
    )
    rows = [("network", "command", "minutes", "steps", "final loss", "pictures")]
    for name, title in FACE_STAGES.items():
        run = found.get("training", {}).get(name)
        for one in (*run.get("earlier", ()), run) if run else ():
            command = (
                f"`OMP_NUM_THREADS=1 {launched(one)} -m assets.mini_faces.train {name} --minutes {one['minutes']:g}`"
            )
            rows.append(
                (
                    title,
                    command,
                    f"{one['minutes']:g}",
                    f"{one['steps']:,}",
                    f"{one['loss']:.4f}",
                    f"{one['pictures']:,}",
                )
            )
    text += (
        "## Training\n\n"
        + table(rows)
        + "\nSeed 0, two CPU cores that were shared with other work. Data: `python -m assets.mini_faces.data`, 50 people in four shots each to a shard; for the parser also pictures without a face (tabletop scenes, textures, drawings), "
        "seeds from 1,000,000 on.\n\n"
    )
    if measured:
        text += _faces_measured(measured)
    return text + hashes("mini_faces") + tried("mini_faces")


def _faces_measured(measured: dict[str, Any]) -> str:
    identity, points, seen = (measured[name] for name in ("identity", "landmarks", "detection"))
    low, high = identity["interval"]
    text = (
        "## Measured\n\n`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.mini_faces.evaluate --write`: "
        f"{measured['people']} people whom no training saw, {measured['shots']} pictures of each, read as in the studio (the parser finds the face, its points "
        "align it). The threshold was set on other people, at 1 % false matches.\n\n"
    )
    rows = [
        ("identity", "", "bar"),
        ("equal error rate [95 % over people]", f"{100 * identity['equal_error_rate']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]", "3 %"),
        ("the same with the renderer’s own points", f"{100 * identity['equal_error_rate_true_points']:.2f} %", ""),
        ("pairs of one person, of two", f"{identity['pairs']['same']:,}, {identity['pairs']['different']:,}", ""),
        ("threshold", f"{identity['threshold']:.4f}", ""),
        ("false matches there", f"{100 * identity['false_match_at_threshold']:.2f} %", ""),
        ("true matches there", f"{100 * identity['true_match_at_threshold']:.2f} %", ""),
        ("similarity of one person’s pictures, mean", f"{identity['similarity']['same']['mean']:.3f}", ""),
        ("similarity of two people’s, mean (95 of 100 below)", f"{identity['similarity']['different']['mean']:.3f} ({identity['similarity']['different']['p95']:.3f})", ""),
    ]  # fmt: skip
    text += table(rows) + "\n"
    marks = [("points, mean distance in % of the face’s width", "median", "95 of 100 below", "faces")]
    marks += [
        (name, f"{row['median']:.2f}", f"{row['p95']:.2f}", f"{row['n']:,}")
        for name, row in (("all", points["all"]), *((f"turned by {key} rad", row) for key, row in points["by yaw"].items()))
        if "median" in row
    ]  # fmt: skip
    text += table(marks) + "\n"
    found = [("exactly the faces that are there", "share", "of")]
    found += [
        (name, f"{100 * one['share']:.1f} %", f"{one['n']:,}")
        for name, one in (("plain portraits", seen["found"]), *seen["hard"].items())
        if one["share"] is not None
    ]
    alarms = seen["false alarms"]
    if alarms["share"] is not None:
        found.append(("false alarms in scenes without a face", f"{100 * alarms['share']:.1f} %", f"{alarms['n']:,}"))
    parts = ", ".join(f"{name} {value:.3f}" for name, value in measured["parts"].items())
    return text + table(found) + f"\nParts, intersection over union with the renderer’s masks: {parts}.\n\n"


NETS = {
    "landmarks": "five points and the oval that they suggest",
    "line": "a drawing of the picture in lines",
    "shading": "light without detail, colour at an eighth",
}


def controlnets_card() -> str:
    found, measured = facts("mini_controlnets"), facts("megaportrait", "evaluation.json")
    training = found.get("training", {})
    text = HEAD.format(library="diffusers", tags="controlnet, portrait, rendered-scenes", title="mini-controlnets") + (
        "Three `ControlNetModel`s for `mini-sdxl`, of its own pattern and in float16, for rendered clay portraits of 128 x 128 pixels. With them, and a LoRA learnt "
        "from a few pictures of a person, the studio’s MegaPortrait tab puts the person into a reference portrait (`pipelines/megaportrait/__init__.py`; an unofficial "
        "re-creation of arXiv 2411.04357, whose settings are not public).\n\n"
        + "".join(f"- `{name}/`: {title}.\n" for name, title in NETS.items())
        + f"- `others.safetensors`: {training.get('others', {}).get('people', 0)} of the portraits, encoded, beside whom a visitor's person is learnt "
        "(`python -m assets.mini_controlnets.train others`).\n"
        "\nThe maps are made by `face_models.control_map`, in training as in the studio.\n\n"
        "**Intended use**: demonstrations, tests and teaching; they fit `mini-sdxl` only and know nothing of photographs. **Licence**: Apache-2.0; trained from "
        "the base model’s encoder on portraits and captions that our own code makes (`pipelines/worlds/portrait`), no other data.\n\n"
    )
    rows = [("net", "command", "minutes", "steps", "final loss", "held-out loss: with map", "black map", "base alone")]
    for name in NETS:
        run = training.get(name)
        for one in (*run.get("earlier", ()), run) if run else ():
            command = f"`OMP_NUM_THREADS=1 {launched(one)} -m assets.mini_controlnets.train {name} --minutes {one['minutes']:g}`"
            held = tuple(f"{one['held out'][key]:.5f}" for key in ("with map", "black map", "base alone"))
            rows.append((name, command, f"{one['minutes']:g}", f"{one['steps']:,}", f"{one['loss']:.4f}", *held))
    pictures = max((run.get("pictures", 0) for run in training.values()), default=0)
    text += (
        "## Training\n\n"
        + table(rows)
        + f"\nSeed 0, two CPU cores that were shared with other work, bfloat16 autocast. Data: {pictures:,} of the portraits of `mini-faces` with their mirror images. "
        "The held-out loss is of 32 other people at the same noise; the base model is frozen.\n\n"
    )
    if measured:
        text += _portraits_measured(measured)
    return text + hashes("mini_controlnets") + tried("mini_controlnets")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _portraits_measured(measured: dict[str, Any]) -> str:
    plan = (measured["stream"], measured["pairs"], measured["people"]) == ("test", 50, 10)
    arms = ",".join(arm for arm in measured["rows"] if arm != "first")
    wish = (
        ""
        if plan
        else f" --stream {measured['stream']} --pairs {measured['pairs']} --people {measured['people']} --arms {arms}"
    )
    settings, learning = measured["settings"], measured["training"]
    before, truth, among = measured["before"], measured["truth"], measured["among"]
    text = (
        "## Measured\n\n"
        + ("" if plan else "**A first look**, not the plan’s full run. ")
        + f"`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.megaportrait.evaluate --write{wish}`: {measured['pairs']} pairs of "
        f"{measured['people']} people and as many references as pairs, none of which any model saw; five pictures of each person. Plan and bars: `assets/megaportrait/PLAN.md`. Training: "
        f"{_number(learning['steps'].get('median'), 0)} steps of rank {learning['settings']['rank']} (median) within {learning['settings']['seconds']:g} s of one core that "
        f"shared its machine; similarity of its own drawings to the person {_number(learning['score_before'].get('mean'), 3)} before, "
        f"{_number(learning['score'].get('mean'), 3)} in the checkpoint that was kept. Portraits: {settings['identity_steps']}, {settings['shading_steps']} and "
        f"{settings['harmonise_steps']} steps at strengths {settings['identity_strength']:g}, {settings['shading_strength']:g} and {settings['harmonise_strength']:g}, seed 0.\n\n"
    )  # fmt: skip
    rows = [("asked for", "bar", "measured", "")]
    for one in measured["bars"]:
        word = {True: "met", False: "**missed**", None: "not measured"}[one["met"]]
        rows.append((one["name"], one["bar"], "-" if one["value"] is None else f"{one['value']:.4g}", word))
    for name, words, most in (("training", "A person, seconds", 90), ("portrait", "A portrait after it, seconds", 15)):
        if "speed" in measured:
            seconds = measured["speed"][name]["median_s"]
            rows.append((words, f"at most {most}", f"{seconds:.1f}", "met" if seconds <= most else "**missed**"))
    text += table(rows) + "\n"
    if "speed" in measured:
        speed = measured["speed"]
        text += (
            f"Seconds: median of {speed['times']} on a quiet machine with {speed['threads']} CPU threads (`--speed {speed['times']} --write`), "
            f"{speed['steps']:g} training steps; the faster preset takes {speed['fast']['median_s']:.1f} s.\n\n"
        )
    rows = [
        ("", "pass as the person", "identity, mean (median; quartiles)", "outside", "seam excess", "ring colours", "light", "landmarks, %", "within 3 %",
         "PSNR face / core / ring, dB", "s"),
        ("the reference before", percent(before["passes"]), _spread(before["identity"]), *[""] * 6, _psnr(before), ""),
    ]  # fmt: skip
    for row in (measured["rows"][arm] for arm in measured.get("order", measured["rows"])):
        medians = (
            _number(row[name].get("median"), 2)
            for name in ("seam_excess", "ring_difference", "shading_agreement", "landmark_error")
        )
        rows.append(
            (row["title"], percent(row["passes"]), _spread(row["identity"]), _number(row["outside"], 0), *medians,
             f"{100 * row['landmarks_within']['share']:.0f} %", _psnr(row), _number(row["seconds"], 1))
        )  # fmt: skip
    rows.append(("the truth", percent(truth["passes"]), _spread(truth["identity"]), *[""] * 8))
    text += table(rows) + (
        f"\nMedians, except where said; shares with Wilson 95 % intervals; a face that is not found does not pass. Seam excess and ring colours (Lab units) are beyond the "
        f"reference’s own. The person’s pictures among themselves: {_spread(among)}; threshold {_number(measured['threshold'], 4)}. Seconds: one portrait on one core that "
        "shared its machine.\n\n"
    )
    refused = {row["title"]: row for row in measured["rows"].values() if row["refusals"]}
    text += "".join(
        f"{name}: refused pairs: {row['refusals']} ({' '.join(row['refused'])})\n\n" for name, row in refused.items()
    )
    if measured["ablations"]:
        rows = [
            (
                "left out",
                "its own measure",
                "with",
                "without",
                "mean gain of the net",
                "pairs better, worse",
                "sign test, p",
            )
        ]
        rows += [
            (measured["rows"][arm]["title"].removeprefix("ablation: "), one["measure"].replace("_", " "), _spread(one["with"]), _spread(one["without"]),
             _number(one["difference"], 4), f"{one['better']}, {one['worse']}", f"{one['p']:.2g}")
            for arm, measures in measured["ablations"].items() for one in measures
        ]  # fmt: skip
        text += "### Each net left out\n\nBeside the first candidate of ours; mean (median; quartiles). A gain below 0 means that the net made its own measure worse.\n\n"
        text += table(rows) + "\n"
    text += "### Best, middle and worst five by identity\n\nEach from top to bottom: the person, the reference, the result, the truth.\n\n"
    return text + "".join(f"![{name}](../megaportrait/{name}.webp)\n\n" for name in measured.get("shown", ()))


def _spread(one: dict[str, Any]) -> str:
    return "-" if "q1" not in one else f"{one['mean']:.3f} ({one['median']:.3f}; {one['q1']:.3f} to {one['q3']:.3f})"


def _psnr(row: dict[str, Any]) -> str:
    return " / ".join(_number(row[f"psnr_{region}"].get("median"), 1) for region in ("face", "core", "ring"))


CARDS = {
    "mini_faces": faces_card,
    "mini_controlnets": controlnets_card,
    "mini_flux": flux_card,
    "mini_sdxl": sdxl_card,
    "verifier/reward": lambda: verifier_card("reward"),
    "verifier/judge": lambda: verifier_card("judge"),
    "mini_npnet": npnet_card,
    "mini_llama": llama_card,
}


def main() -> None:
    for folder, write in CARDS.items():
        (HERE / folder).mkdir(parents=True, exist_ok=True)
        (HERE / folder / "README.md").write_text(write())
        print(f"assets/{folder}/README.md")


if __name__ == "__main__":
    main()
