"""What the page says of a pair of pictures: verdicts, figures, and what was done to the noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from demos.core.figures import Series, bars, data_uri, plot, safe, signed
from demos.core.quantities import this_run
from pipelines.golden_noise import HEAT, NO_NETWORK, Outcome

if TYPE_CHECKING:
    from pipelines.models.verifier import Verdict

NOISE_UNIT = "Noise is in units of standard noise, whose mean is 0 and whose deviation is 1."


def verdict_table(outcome: Outcome) -> str:
    """What the classifier saw in each picture, attribute by attribute. A mark never stands without its word."""
    both = list(zip(outcome.verdict_standard, outcome.verdict_golden, strict=True))
    if not both:
        return '<p class="quiet">The prompt asks for nothing that the classifier knows, so there is no verdict.</p>'
    judged = sum(left.right is not None for left, _ in both)
    rows = "".join(
        f"<tr><th scope='row'>{safe(left.attribute)}</th><td>{safe(left.wanted)}</td>{_seen(left)}{_seen(right)}</tr>"
        for left, right in both
    )
    heads = "".join(
        f"<th scope='col'>{name}<span>{sum(verdict.right is True for verdict in verdicts)} of {judged} right</span></th>"
        for name, verdicts in (
            ("Standard noise", [pair[0] for pair in both]),
            ("Golden noise", [pair[1] for pair in both]),
        )
    )
    return (
        "<div class='verdicts'><h3>What a classifier sees</h3><table><thead><tr><th scope='col'>Attribute</th>"
        f"<th scope='col'>Asked for</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _seen(verdict: Verdict) -> str:
    if verdict.right is None:
        return "<td><b>– not read</b>, so not judged</td>"
    word = "<b class='yes'>✓ right</b>" if verdict.right else "<b class='no'>✗ wrong</b>"
    return f"<td>{word}, {safe(verdict.seen)} <span>({100 * verdict.confidence:.0f} % sure)</span></td>"


def figures_html(outcome: Outcome) -> str:
    """The measurements of a run, the measured claim, and which models answered under which licence."""
    told, noise = outcome.measurements, outcome.measurements["noise"]
    figures = {
        "Both pictures": f"{told['seconds']:.1f} s on {'the GPU' if told['device'] == 'cuda' else 'the CPU'}",
        "Re-denoising" if outcome.settings.source in NO_NETWORK else "NPNet": f"{1000 * told['npnet_seconds']:.0f} ms",
        "Noise moved by": f"{noise['change_rms']:.3f} RMS",
        "Its mean": f"{noise['mean_before']:+.3f} → {noise['mean_after']:+.3f}".replace("-", "−"),
        "Its deviation": f"{noise['std_before']:.3f} → {noise['std_after']:.3f}",
    }
    claim = f"<h3>Which noise is better, measured over many prompts</h3><p class='claim'>{safe(told['claim'])}</p>"
    return this_run(figures, told["models"], NOISE_UNIT, claim)


def notes_html(outcome: Outcome) -> str:
    """What has to be said of a run before its verdicts: words that were not read."""
    return "".join(f"<p class='remark'>{safe(note)}</p>" for note in outcome.measurements.get("notes", ()))


def unknown_words(outcome: Outcome) -> str:
    """A remark on the words of the prompt that the small model was never taught; empty when it knows them all."""
    words = outcome.measurements.get("unknown_words", [])
    if not words or outcome.settings.model_set != "mini":
        return ""
    listed = ", ".join(f"“{safe(word)}”" for word in words[:8])
    return (
        f"<p class='remark'>The mini model never learned {listed}: it knows plain solids on floors, and portraits.</p>"
    )


def inspect_html(outcome: Outcome) -> str:
    """What was done to the noise: a map, shares, singular values and spectrum, each with its facts in words."""
    noise = outcome.measurements["noise"]
    quiet = "" if noise["change_rms"] else "<p class='remark'>At strength 0 the noise is not changed at all.</p>"
    side = len(noise["singular_values_before"]) // 2
    return (
        f"<div class='inspect'>{quiet}<div class='inspect-grid'>{_map(outcome)}{_shares(noise, side)}"
        f"{_singular_values(noise)}{_spectrum(noise)}{_channels(noise, side)}</div></div>"
    )


def _map(outcome: Outcome) -> str:
    noise = outcome.measurements["noise"]
    peak = noise["change_peak"]
    facts = (
        f"Every cell of the latent, in its place in the picture: dark was not changed, light was changed most, by {peak:.3f} "
        f"(root mean square over the channels; {noise['change_rms']:.3f} over all cells). The noise itself is about 1."
    )
    colours = ", ".join(f"rgb{stop}" for stop in HEAT)
    return (
        f"<figure class='heat'><p class='title'>Where the noise was changed</p><img src='{data_uri(outcome.heat)}' "
        f"alt='Map of the change of the noise. {safe(facts)}'><p class='scale'><span>0</span>"
        f"<i style='background: linear-gradient(to right, {colours})'></i><span>{peak:.3f}</span></p>"
        f"<figcaption>{safe(facts)}</figcaption></figure>"
    )


def _shares(noise: dict[str, Any], side: int) -> str:
    energy = noise["energy"]
    patch = math.gcd(8, side)
    chance = (1 / side**2, 1 / patch**2 - 1 / side**2, 1 - 1 / patch**2)
    by_chance = ", ".join(f"{100 * share:.1f} %" for share in chance)
    names = ("One shift for each channel", f"Flat patches of {patch} × {patch} cells", "Finer than that")
    shares = list(zip(names, (energy["shift"], energy["patches"], energy["fine"]), strict=True))
    told = ", ".join(f"{name[:1].lower() + name[1:]} {100 * share:.1f} %" for name, share in shares)
    return bars("What the change is made of", f"Of its energy: {told}. A random change would have {by_chance}.", shares)


def _channels(noise: dict[str, Any], side: int) -> str:
    rows = "".join(
        f"<tr><th scope='row'>Channel {number}</th><td>{signed(before, 3)}</td><td>{signed(after, 3)}</td></tr>"
        for number, (before, after) in enumerate(
            zip(noise["channel_means_before"], noise["channel_means_after"], strict=True), 1
        )
    )
    return (
        "<div class='verdicts channels'><p class='title'>Mean of each channel</p><table><thead><tr><td></td>"
        f"<th scope='col'>Before</th><th scope='col'>After</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='quiet'>Of plain noise, 95 in 100 lie within ±{2 / side:.3f}.</p></div>"
    )


def _singular_values(noise: dict[str, Any]) -> str:
    before, after = noise["singular_values_before"], noise["singular_values_after"]
    change = [b - a for a, b in zip(before, after, strict=True)]
    numbers = list(range(1, len(before) + 1))
    most, least = max(numbers, key=lambda n: change[n - 1]), min(numbers, key=lambda n: change[n - 1])
    both = (
        f"The {len(before)} singular values of the channels laid out as tiles. The largest goes from {before[0]:.2f} to "
        f"{after[0]:.2f}; the curves nearly lie on each other, so their difference has a chart of its own."
    )
    apart = (
        f"After minus before: the largest gain is {signed(change[most - 1], 3)} (value {most}), the largest loss "
        f"{signed(change[least - 1], 3)} (value {least})."
    )
    axes = ("number of the singular value", "singular value")
    curves = [Series("before", numbers, before), Series("after", numbers, after, "dashed")]
    return plot("Singular values", both, curves, axes) + plot(
        "Difference of the singular values",
        apart,
        [Series("change", numbers, change)],
        (axes[0], "after − before"),
        0.0,
    )


def _spectrum(noise: dict[str, Any]) -> str:
    before, after, frequency = noise["spectrum_before"], noise["spectrum_after"], noise["frequency"]
    moved = max(range(len(before)), key=lambda i: abs(after[i] - before[i]))
    facts = (
        "Mean power in rings of spatial frequency, from whole-picture shifts (0) to every second cell (0.5); white noise "
        f"has about 1 in all of them. Most changed at {frequency[moved]:g}: from {before[moved]:.2f} to {after[moved]:.2f}."
    )
    curves = [Series("before", frequency, before), Series("after", frequency, after, "dashed")]
    return plot("Radial spectrum", facts, curves, ("frequency, cycles per latent cell", "power"), 1.0, True)
