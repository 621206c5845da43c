"""Write the model cards from what the scripts measured: ``python -m assets.cards`` (a test compares them).

Words stand here, figures come from each folder's ``manifest.json`` and ``evaluation.json``, so that a card cannot
say what nobody measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
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
        "and captions that our own code makes (`pipelines/scenes`), no other data.\n\n"
        "**Noise schedule**: SDXL's own 1,000 noise levels; sampling starts at level {steps} (signal share {signal:.4f}). The "
        "signal-to-noise ratio of large structures grows with the number of cells: a 32 x 32 latent meets SDXL's own situation "
        "(share 0.005 on 128 x 128) at level 720. Started there, pictures believe the noise where it contradicts the prompt "
        "(*Tried*: skies become walls), which is what golden noise acts on, and the bars below are missed; so the default is "
        "the full schedule. Any start between needs no other weights: "
        "`DDIMScheduler(**tiny_diffusion.sampler(720))`. Prediction is of velocity.\n\n"
    ).format(**schedule())
    text += "## Uncurated samples\n\nThe first twelve held-out prompts of each kind, in order, none left out.\n\n![samples](samples.png)\n\n"
    text += "## Training\n\n" + table(
        [("stage", "command", "minutes", "steps", "final loss")]
        + [
            (
                name,
                f"`python -m assets.mini_sdxl.train {name} --minutes {t['minutes']:g}`",
                f"{t['minutes']:g}",
                f"{t['steps']:,}",
                f"{t['loss']:.4f}",
            )
            for name, t in training.items()
        ]
    )
    text += (
        "\nSeed 0, two CPU cores that were shared with other work, bfloat16 autocast. Data: `python -m assets.data`, "
        "13,000 tabletop scenes and 5,000 portraits with their mirror images; scenes with three things were left out of the "
        "UNet's training. The text encoders first learn to read every attribute of a caption (linear read-outs), then stay "
        "frozen. How the UNet's run really went stands under *Tried*.\n\n"
    )
    if measured:
        text += (
            "## Measured\n\n`python -m assets.mini_sdxl.evaluate --prompts "
            + str(measured["prompts_per_kind"])
            + " --sheet`"
        )
        text += f" ({measured['steps']} steps, guidance {measured['guidance']:g}, standard noise, {measured['minutes']:g} minutes on {measured['threads']} threads).\n"
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


def schedule() -> dict[str, Any]:
    from pipelines import tiny_diffusion

    settings, product = tiny_diffusion.cut_schedule(tiny_diffusion.SCHEDULE_STEPS), 1.0
    low, high, steps = settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, settings["num_train_timesteps"]
    for index in range(steps):
        product *= 1 - (low + (high - low) * index / (steps - 1)) ** 2
    return {"steps": steps, "signal": product}


def verifier_card(which: str) -> str:
    training = facts(f"verifier/{which}").get("training", {})
    kind = {"reward": "ResNet (basic blocks), seed 11", "judge": "RegNet (grouped convolutions), seed 23"}
    use = {
        "reward": "It may be used to filter or to teach; it never grades.",
        "judge": "It only grades: nothing was trained with it. Two settings of mini-sdxl (guidance, start of sampling) were chosen with it.",
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


def npnet_card() -> str:
    found = facts("mini_npnet")
    training, measured = found.get("training", {}), found.get("evaluation", {})
    text = HEAD.format(library="diffusers", tags="golden-noise", title="Small NPNet for mini-sdxl") + (
        "NPNet (arXiv 2411.09502) in the published architecture at small size, trained by the paper's recipe: re-denoise "
        "sampling, then the reward filter. Class: `pipelines/npnet.py`.\n\n"
    )
    if training:
        text += (
            f"`python -m assets.mini_npnet.train collect` made {training['pairs']:,} pairs, of which the reward preferred {training['kept']:,}; "
            f"`fit --minutes {training['minutes']:g}`: {training['steps']:,} steps. {training['check'].capitalize()}. "
            f"Root mean square of the change: {training['change_rms']}.\n\n"
        )
    if measured:
        text += "## Measured\n\n" + found.get("claim", "") + "\n\n"
        rows = [("starting noise", "all attributes right", "won", "lost", "exact McNemar p", "points")]
        rows.append(("standard", percent(measured["standard"]), "", "", "", ""))
        for name, entry in measured.items():
            if name != "standard":
                rows.append(
                    (
                        name,
                        percent(entry),
                        str(entry["wins"]),
                        str(entry["losses"]),
                        f"{entry['p']:.2g}",
                        f"{entry['points']:+.2f}",
                    )
                )
        text += (
            table(rows)
            + "\nPrompts and seeds other than those of collection, the same noise in every arm, judged by the `judge`.\n\n"
        )
    return text + hashes("mini_npnet") + tried("mini_npnet")


CARDS = {
    "mini_sdxl": sdxl_card,
    "verifier/reward": lambda: verifier_card("reward"),
    "verifier/judge": lambda: verifier_card("judge"),
    "mini_npnet": npnet_card,
}


def main() -> None:
    for folder, write in CARDS.items():
        (HERE / folder).mkdir(parents=True, exist_ok=True)
        (HERE / folder / "README.md").write_text(write())
        print(f"assets/{folder}/README.md")


if __name__ == "__main__":
    main()
