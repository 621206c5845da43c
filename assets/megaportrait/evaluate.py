"""How good portraits of unseen people in unseen references are, against the renderer's truth, beside ablations (PLAN.md).

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m assets.megaportrait.evaluate --write   # the card's figures
    python -m assets.megaportrait.evaluate --arms drawn --write                             # the nets that nobody is trained for, by themselves
    python -m assets.megaportrait.evaluate --speed 3 --write                                # seconds, on a quiet machine
    python -m assets.megaportrait.evaluate --stream validation --pairs 10 --arms ours,no_shading --settings own_tone=0.8

First every person is learnt once, from five pictures, then every pair of a person and a reference is made by every arm. Pieces are files
under ``data/evaluation/portraits``, marked with a hash over weights and settings, so that a killed run goes on and processes share
the work. ``--write`` writes ``evaluation.json`` and the sheets ``best.webp``, ``median.webp`` and ``worst.webp`` (five pairs each, by
identity: the person, the reference, the result, the truth). Other settings than the defaults are for the validation stream only.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image

from assets.lab import chunks, training
from pipelines import megaportrait
from pipelines.core.geometry import Picture
from pipelines.core.lane import Job
from pipelines.core.registry import Registry
from pipelines.core.scores import mcnemar, wilson
from pipelines.megaportrait import Cache, Request, Settings, metrics, recipes, tools
from pipelines.megaportrait import person as persons
from pipelines.megaportrait.learn import Training, train_person
from pipelines.megaportrait.person import Person
from pipelines.megaportrait.recipes import Recipe
from pipelines.megaportrait.results import Outcome
from pipelines.megaportrait.tools import FaceTools

HERE = Path(__file__).parent
DONE = Path("data/evaluation/portraits")
STREAMS = {"test": 700_000, "validation": 500_000}
REFERENCES = 500
"""The first reference's seed lies so far above the first person's."""
PER_PERSON = 5
SHOWN = 5
"""Pairs on a sheet."""

TITLES = {
    "ours": "all three nets, the better of two candidates",
    "first": "the same, its first candidate",
    "no_identity": "ablation: nothing of the person but words",
    "no_shading": "ablation: no Shading Net, no transfer of light",
    "no_harmonisation": "ablation: pasted, no Harmonization Net",
    "no_network": "Harmonization's seam taken out, but no network",
    "instant": "instant mode: pasted start, no fine-tune",
    "drawn": "drawn from the pictures: taught nets, no fine-tune",
    "fast": "faster preset",
    "preview": "preview: nearest picture pasted, no network",
}
CHANGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "no_shading": {"no_shading": True, "candidates": 1},
    "no_harmonisation": {"no_harmonisation": True, "candidates": 1},
    "no_network": {"harmonise_steps": 1, "candidates": 1},
    "no_identity": {"no_identity": True, "candidates": 1},
    "instant": {"mode": "instant", "candidates": 1},
    "drawn": {"mode": "drawn", "candidates": 1},
    "fast": {"candidates": 1},
    "preview": {"mode": "preview", "candidates": 1},
}
"""Arms that are run, and what sets them apart; ``ours`` also gives ``first``."""
SHARED = ("ours", "no_shading", "no_harmonisation", "no_network")
"""These begin alike: what one has painted the next takes from the cache, and only the first one's seconds are told."""
ABLATIONS: dict[str, tuple[tuple[str, bool], ...]] = {
    "no_identity": (("identity", True),),
    "instant": (("identity", True),),
    "no_shading": (("shading_agreement", True),),
    "no_harmonisation": (("seam_excess", False), ("ring_difference", False)),
}
"""What each net is there for, and whether more of it is better."""
PLAIN = (
    "outside_largest",
    "outside_ssim",
    "seam_excess",
    "ring_difference",
    "shading_agreement",
    "sharpness_ratio",
    "landmark_error",
)
REGIONS = ("face", "core", "ring", "rest")
LANDMARKS = 3.0
"""Percent of the face's width: the bar of the landmark error."""


# ------------------------------------------------------------------------------------------------ runs


def recipe_of(stream: str, number: int, people: int) -> Recipe:
    """Pair ``number`` of a stream: one of ``people`` persons in turn, in a reference of its own."""
    start = STREAMS[stream]
    return Recipe(start + number % people, start + REFERENCES + number)


def settings_of(arm: str, changes: Mapping[str, Any]) -> Settings:
    """The defaults (or the faster preset) with ``changes`` and what sets the arm apart."""
    base = Settings.of("mini", fast=arm == "fast")
    return dataclasses.replace(base, **{**changes, **CHANGES[arm]}).validated()


def told(outcome: Outcome, place: int = 0) -> dict[str, Any]:
    """Everything that is told of one candidate; flat numbers and None."""
    found = outcome.candidates[place].metrics
    identity = found["identity"]
    row = {name: found.get(name) for name in PLAIN}
    row |= {"identity": identity["result"]["mean"], "nearest": identity["result"]["best"]}
    row |= {"reference": identity["reference"]["mean"], "among": identity["among"]["mean"]}
    row["truth"] = identity.get("truth", {}).get("mean")
    for region in REGIONS:
        for score in ("psnr", "ssim"):
            row[f"{score}_{region}"] = found["regions"][region][score]
            row[f"before_{score}_{region}"] = found["before"][region][score]
    return row


def learn(registry: Registry, identity: int, settings: Training, folder: Path) -> dict[str, Any]:
    """Train one person and keep it in ``folder``; what is told of the training."""
    began = time.perf_counter()
    pictures = Recipe(identity, 0).pictures()
    person = train_person(Job(limit_s=1e9), registry, pictures, settings, str(identity), rendered=True)
    persons.save(person, folder)
    scores = [check["score"] for check in person.facts["checks"]]
    return {
        "wall": time.perf_counter() - began,
        **{name: person.facts[name] for name in ("seconds", "steps", "best_step", "score_before")},
        "score": next(c["score"] for c in person.facts["checks"] if c["step"] == person.facts["best_step"]),
        "last_score": scores[-1],
        "used": len(person.crops),
    }


def run_pair(
    registry: Registry, person: Person, recipe: Recipe, arms: Iterable[str], changes: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Rows by arm; one that refuses the pair has a sentence only. Results of ``ours`` come along as pictures."""
    reference, truth, rows, shared = recipe.picture(), recipe.truth(), {}, Cache()
    for arm in arms:
        settings = settings_of(arm, changes)
        request = Request(reference, person, settings=settings, truth=truth, rendered=True)
        began = time.perf_counter()
        try:
            made = megaportrait.generate(Job(limit_s=1e9), registry, request, shared if arm in SHARED else Cache())
        except ValueError as error:
            rows[arm] = {"refused": str(error)}
            continue
        seconds = time.perf_counter() - began
        rows[arm] = told(made)
        if arm == "ours":
            rows["first"] = told(made, [one.seed for one in made.candidates].index(settings.seed))
            assert made.truth is not None
            rows[arm] |= {
                "result": torch.from_numpy(numpy.array(made.best.result)),
                "exact": torch.from_numpy(made.truth.copy()),
            }
        if arm not in SHARED[1:]:
            rows[arm]["seconds"] = seconds
    return rows


# ----------------------------------------------------------------------------------------- bookkeeping


def mark(*facts: Any) -> str:
    """Short hash over weights and settings; after a change of the code that paints or measures, empty :data:`DONE`."""
    folders = ("mini_sdxl", "mini_faces", "mini_controlnets", "verifier")
    weights = {name: training.hashes(HERE.parent / name) for name in folders}
    told = json.dumps([weights, tools.threshold(), *facts], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def family(arms: Sequence[str]) -> list[tuple[str, ...]]:
    """The arms in groups that one process makes together: those that share stages, and each of the others."""
    sharing = tuple(arm for arm in SHARED if arm in arms)
    return [*([sharing] if sharing else []), *((arm,) for arm in arms if arm not in SHARED)]


def complete(
    stream: str, pairs: int, people: int, arms: Sequence[str], changes: Mapping[str, Any], learning: Training
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """What is told of each training, and the rows of each arm by pair; made where they are not there yet."""
    registry = Registry("cpu")
    learnt = mark(dataclasses.asdict(learning))
    folder = DONE / f"persons-{learnt}"
    identities = [STREAMS[stream] + number for number in range(people)]
    lessons = chunks.complete(
        DONE,
        identities,
        lambda identity: f"person-{identity}-{learnt}",
        lambda identity: learn(registry, identity, learning, folder),
    )
    groups = family(arms)
    marks = {group: mark(learnt, [dataclasses.asdict(settings_of(arm, changes)) for arm in group]) for group in groups}

    def name(item: tuple[int, tuple[str, ...]]) -> str:
        number, group = item
        recipe = recipe_of(stream, number, people)
        return f"{recipe.person}-{recipe.reference}-{'+'.join(group)}-{marks[group]}"

    def make(item: tuple[int, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
        number, group = item
        recipe = recipe_of(stream, number, people)
        return run_pair(registry, persons.load(folder, str(recipe.person)), recipe, group, changes)

    work = [(number, group) for group in groups for number in range(pairs)]
    pieces = chunks.complete(DONE, work, name, make)
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in work:
        for arm, row in pieces[item].items():
            rows.setdefault(arm, []).append(row)
    return [lessons[identity] for identity in identities], rows


def add_drawn(stream: str, pairs: int, people: int, changes: Mapping[str, Any], path: Path | None) -> None:
    """The arm for which nobody is trained, by itself, beside the bare paste of each pair; the row goes to those of the full run that are
    there."""
    registry, rows, pastes, sheets = Registry("cpu"), [], [], []
    for number in range(pairs):
        recipe = recipe_of(stream, number, people)
        pictures, truth = recipe.pictures(), recipe.truth()
        request = Request(recipe.picture(), pictures=pictures, truth=truth, rendered=True)
        request.settings = settings_of("preview", changes)
        pastes.append(told(megaportrait.generate(Job(limit_s=1e9), registry, request, Cache())))
        request.settings = settings_of("drawn", changes)
        began = time.perf_counter()
        made = megaportrait.generate(Job(limit_s=1e9), registry, request, Cache())
        rows.append(told(made) | {"seconds": time.perf_counter() - began})
        assert made.truth is not None
        some = (request.picture(), numpy.array(made.best.result), made.truth)
        left, top, width, height = made.analysis.face.box
        near = left + width / 2, top + height / 2
        seen = functools.partial(parts_alike, some[1], some[2], near)
        rows[-1]["parts"] = tools.with_tools(registry, "mini", seen)
        sheets.append([pictures[0][1], *some])
    better = share([made["psnr_face"] > pasted["psnr_face"] for made, pasted in zip(rows, pastes, strict=True)])
    shown = {"parts": summary(row["parts"] for row in rows), "better_than_paste": better}
    found = {"title": TITLES["drawn"], "n": len(rows), **figures(rows, tools.threshold()), **shown}
    print(json.dumps(found))
    if path is None:
        return
    kept = training.read_json(path)
    kept["rows"]["drawn"] = found
    kept["order"] = [arm for arm in TITLES if arm in kept["rows"]]
    training.write_json(path, kept)
    Image.fromarray(sheet(sheets[:SHEET_OF_DRAWN])).save(HERE / "drawn.webp", quality=92, method=6)


def parts_alike(result: Picture, truth: Picture, near: tuple[float, float], models: FaceTools) -> float:
    """Mean over the parts of the head ``near`` a place (x, y) that the parser sees in the truth, of their intersection over union with what it
    sees in the result; 0 where it sees no face."""
    ours, theirs = models.parts(result, near), models.parts(truth, near)
    if ours is None or theirs is None:
        return 0.0
    pairs = [(ours.parts[name], mask) for name, mask in theirs.parts.items() if name != "background" and mask.any()]
    return statistics.fmean(float((one & other).sum() / (one | other).sum()) for one, other in pairs)


SHEET_OF_DRAWN = 8


# -------------------------------------------------------------------------------------------- figures


def summary(values: Iterable[float | None]) -> dict[str, float]:
    """Mean, median, quartiles and count of what is known."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"n": 0}
    q1, median, q3 = statistics.quantiles(known, n=4) if len(known) > 1 else known * 3
    found = {"mean": statistics.fmean(known), "median": median, "q1": q1, "q3": q3}
    return {**{name: round(value, 4) for name, value in found.items()}, "n": len(known)}


def share(flags: Sequence[bool]) -> dict[str, Any]:
    """A share with its Wilson interval."""
    low, high = wilson(sum(flags), len(flags))
    return {
        "share": round(sum(flags) / max(len(flags), 1), 4),
        "interval": [round(low, 6), round(high, 6)],
        "of": len(flags),
    }


def passing(rows: Sequence[Mapping[str, Any]], name: str, bar: float | None) -> dict[str, Any]:
    """Share of all pairs whose similarity is at least the bar: one that is not known, or was refused, does not pass."""
    values = [row.get(name) for row in rows]
    flags = [value is not None and bar is not None and value >= bar for value in values]
    return {**share(flags), "known": sum(value is not None for value in values)}


def figures(rows: Sequence[Mapping[str, Any]], bar: float | None) -> dict[str, Any]:
    """One arm's figures."""

    def column(name: str) -> list[Any]:
        return [row.get(name) for row in rows]

    outside = [value for value in column("outside_largest") if value is not None]
    errors, seconds = column("landmark_error"), [value for value in column("seconds") if value is not None]
    refused = [row["refused"] for row in rows if "refused" in row]
    return {
        "passes": passing(rows, "identity", bar),
        "outside": max(outside) if outside else None,
        "landmarks_within": share([value is not None and value <= LANDMARKS for value in errors]),
        **{name: summary(column(name)) for name in ("identity", *PLAIN[2:])},
        **{
            f"{score}_{region}": summary(column(f"{score}_{region}"))
            for score in ("psnr", "ssim")
            for region in REGIONS
        },
        "seconds": round(statistics.median(seconds), 2) if seconds else None,
        "refused": sorted(set(refused)),
        "refusals": len(refused),
    }


def compared(
    ours: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], measure: str, more: bool
) -> dict[str, Any]:
    """A measure with a net and without it, on the pairs where both are known; ``difference`` above 0: the net makes it better."""
    both = [
        (a[measure], b[measure])
        for a, b in zip(ours, other, strict=True)
        if a.get(measure) is not None and b.get(measure) is not None
    ]
    gains = [(a - b) if more else (b - a) for a, b in both]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return {
        "measure": measure,
        "with": summary(a for a, _ in both),
        "without": summary(b for _, b in both),
        "difference": round(statistics.fmean(gains), 4) if gains else None,
        "better": better,
        "worse": worse,
        "p": float(f"{mcnemar(better, worse):.3g}"),
    }


MEDIANS = {
    "seam_excess": "Seam excess, median",
    "ring_difference": "Ring colour difference, median",
    "landmark_error": "Landmark error in % of the face’s width, median",
}


def bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked of ours: name, value, the bar in words, and whether it is met (None: not measured)."""
    ours, known = found["rows"].get("ours", {}), found["threshold"] is not None
    passes = ours.get("passes", {}).get("share") if known else None
    before = found["before"]["passes"]["share"] if known else None

    def median(name: str) -> float | None:
        return ours.get(name, {}).get("median")

    asked = [
        ("Results that pass as the person", passes, "at least 90 %", lambda v: v >= 0.9),
        ("References that pass before the swap", before, "at most 5 %", lambda v: v <= 0.05),
        ("Largest difference outside the mask", ours.get("outside"), "0", lambda v: v == 0),
    ]
    for name, words in MEDIANS.items():
        most = metrics.BARS[name][0]
        asked.append((words, median(name), f"at most {most:g}", lambda v, most=most: v <= most))
    told = [
        {"name": name, "value": value, "bar": bar, "met": None if value is None else bool(met(value))}
        for name, value, bar, met in asked
    ]
    for arm, measures in found["ablations"].items():
        for one in measures:
            gain = one["difference"]
            name = f"{one['measure']} is worse with {arm}, mean difference"
            met = None if gain is None else gain > 0 and one["better"] > one["worse"]
            told.append({"name": name, "value": gain, "bar": "above 0, and in most pairs", "met": met})
    return told


def report(
    lessons: Sequence[Mapping[str, Any]],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    stream: str,
    people: int,
    changes: Mapping[str, Any],
    learning: Training,
) -> dict[str, Any]:
    """What the card and the page show."""
    bar = tools.threshold()
    some = rows.get("ours") or next(iter(rows.values()))
    first = rows.get("first", ())
    found: dict[str, Any] = {
        "pairs": len(some),
        "people": people,
        "stream": stream,
        "threshold": bar,
        "settings": dataclasses.asdict(settings_of("ours", changes)),
        "training": {
            "settings": dataclasses.asdict(learning),
            **{
                name: summary(one[name] for one in lessons)
                for name in ("wall", "seconds", "steps", "best_step", "score_before", "score")
            },
        },
        "before": {
            "passes": passing(some, "reference", bar),
            "identity": summary(row.get("reference") for row in some),
            **{
                f"{s}_{r}": summary(row.get(f"before_{s}_{r}") for row in some)
                for s in ("psnr", "ssim")
                for r in REGIONS
            },
        },
        "among": summary(row.get("among") for row in some),
        "truth": {"passes": passing(some, "truth", bar), "identity": summary(row.get("truth") for row in some)},
        "rows": {
            arm: {"title": TITLES[arm], "n": len(rows[arm]), **figures(rows[arm], bar)} for arm in TITLES if arm in rows
        },
        "order": [arm for arm in TITLES if arm in rows],
        "ablations": {
            arm: [compared(first, rows[arm], measure, more) for measure, more in measures]
            for arm, measures in ABLATIONS.items()
            if first and arm in rows
        },
    }
    if "ours" in rows:
        found["shown"] = {
            name: [_named(stream, people, rows["ours"], number) for number in numbers]
            for name, numbers in ordered(rows["ours"]).items()
        }
    return found | {"bars": bars(found)}


def _named(stream: str, people: int, rows: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    recipe, value = recipe_of(stream, number, people), rows[number].get("identity")
    return {
        "person": recipe.person,
        "reference": recipe.reference,
        "identity": None if value is None else round(value, 4),
    }


def ordered(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Places of the best, median and worst pairs by identity, each in falling order; one that is not known is among the worst."""
    order = sorted(range(len(rows)), key=lambda n: -2.0 if rows[n].get("identity") is None else rows[n]["identity"])[
        ::-1
    ]
    start = max(0, (len(order) - SHOWN) // 2)
    return {"best": order[:SHOWN], "median": order[start : start + SHOWN], "worst": order[-SHOWN:]}


def sheet(columns: Sequence[Sequence[NDArray[numpy.uint8]]]) -> NDArray[numpy.uint8]:
    """Pairs side by side, each from top to bottom: the person, the reference, the result, the truth. All of one width."""
    return numpy.concatenate([numpy.concatenate(list(column), 0) for column in columns], 1)


def write_sheets(stream: str, people: int, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for name, numbers in ordered(rows).items():
        columns = []
        for number in numbers:
            recipe, row = recipe_of(stream, number, people), rows[number]
            reference = recipe.picture()
            missing = numpy.zeros_like(reference)
            made = [row[key].numpy() if key in row else missing for key in ("result", "exact")]
            columns.append([recipe.pictures(1)[0][1], reference, *made])
        Image.fromarray(sheet(columns)).save(folder / f"{name}.webp", quality=92, method=6)


def in_words(found: Mapping[str, Any]) -> str:
    """A compact table for choices."""

    def number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    names = (
        "pass",
        "ident",
        "med",
        "out",
        "seam",
        "ring",
        "shade",
        "sharp",
        "marks",
        "<=3%",
        "dBface",
        "dBcore",
        "dBring",
        "s",
    )
    lines = [f"{'arm':17}" + "".join(f"{name:>8}" for name in names)]
    for arm, row in found["rows"].items():
        cells = [
            number(row["passes"]["share"], 2),
            number(row["identity"].get("mean")),
            number(row["identity"].get("median")),
            number(row["outside"], 0),
            *(number(row[name].get("median")) for name in PLAIN[2:]),
            number(row["landmarks_within"]["share"], 2),
            *(number(row[f"psnr_{r}"].get("median"), 1) for r in REGIONS[:3]),
            number(row["seconds"], 1),
        ]
        lines.append(
            f"{arm:17}"
            + "".join(f"{cell:>8}" for cell in cells)
            + (f"  refused {row['refusals']}" if row["refusals"] else "")
        )
    before, truth, lesson = found["before"], found["truth"], found["training"]
    lines.append(
        f"bar {number(found['threshold'])}; before {number(before['passes']['share'], 2)} pass, mean {number(before['identity'].get('mean'))}, "
        f"dB face/core/ring {'/'.join(number(before[f'psnr_{r}'].get('median'), 1) for r in REGIONS[:3])}; truth {number(truth['passes']['share'], 2)} pass, "
        f"mean {number(truth['identity'].get('mean'))}; among {number(found['among'].get('mean'))}; training {number(lesson['wall'].get('median'), 1)} s, "
        f"{number(lesson['steps'].get('median'), 0)} steps, score {number(lesson['score_before'].get('mean'))} -> {number(lesson['score'].get('mean'))}"
    )
    for arm, measures in found["ablations"].items():
        for one in measures:
            lines.append(
                f"{arm}: {one['measure']} {number(one['with'].get('mean'))} with, {number(one['without'].get('mean'))} without; better in "
                f"{one['better']}, worse in {one['worse']}, p {one['p']:.2g}"
            )
    signs = {True: "met", False: "MISSED", None: "not measured"}
    lines += [f"{one['name']}: {one['value']} ({one['bar']}) {signs[one['met']]}" for one in found["bars"]]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- speed


def speed(times: int) -> dict[str, Any]:
    """Seconds on this machine, with all its threads: a training on five pictures, and portraits after it at both presets."""
    registry, taken = Registry("cpu"), {"training": [], "portrait": [], "fast": []}
    steps = []
    for turn in range(times + 1):
        recipe = recipes.EXAMPLES[turn % len(recipes.EXAMPLES)]
        pictures, reference = recipe.pictures(), recipe.picture()
        learning = Training.of("mini") if turn else Training(600, 1, checks=1)  # the first turn only warms up
        began = time.perf_counter()
        person = train_person(Job(1e9), registry, pictures, learning, rendered=True)
        seconds = {"training": time.perf_counter() - began}
        for name in ("portrait", "fast"):
            request = Request(reference, person, settings=Settings.of("mini", fast=name == "fast"), rendered=True)
            began = time.perf_counter()
            megaportrait.generate(Job(1e9), registry, request)
            seconds[name] = time.perf_counter() - began
        if turn:
            steps.append(person.facts["steps"])
            for name, value in seconds.items():
                taken[name].append(round(value, 2))
            print(f"turn {turn}: { ({k: round(v, 1) for k, v in seconds.items()}) }, {steps[-1]} steps", flush=True)
    return {
        "times": times,
        "threads": torch.get_num_threads(),
        "steps": statistics.median(steps),
        **{name: {"median_s": statistics.median(values), "most_s": max(values)} for name, values in taken.items()},
    }


# ---------------------------------------------------------------------------------------- command line


def changed(kind: type, given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as fields of a dataclass; values as in JSON, anything else is text.

    Raises:
        ValueError: no such field.
    """
    names, found = [field.name for field in dataclasses.fields(kind)], {}
    for word in given:
        name, sign, value = word.partition("=")
        if not sign or name not in names:
            raise ValueError(f"{word!r} is no setting: give name=value with one of {', '.join(names)}.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10 * PER_PERSON)
    parser.add_argument("--people", type=int, help="persons that the pairs share; a fifth of the pairs by default")
    parser.add_argument("--arms", default=",".join(CHANGES))
    parser.add_argument("--stream", choices=tuple(STREAMS), default="test")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="of a portrait")
    parser.add_argument("--training", nargs="*", default=[], metavar="NAME=VALUE", help="of a person")
    parser.add_argument("--sheets", type=Path, help="also write the sheets into this folder")
    parser.add_argument("--speed", type=int, metavar="N", help="only measure seconds, N times")
    parser.add_argument("--write", action="store_true", help="write the figures for the card and the page")
    given = chunks.arguments_of(parser)
    try:
        changes, lesson = changed(Settings, given.settings), changed(Training, given.training)
    except ValueError as error:
        parser.error(str(error))
    if (changes or lesson) and (given.write or given.stream == "test"):
        parser.error("other settings than the defaults are tried on --stream validation, and not written")
    arms = given.arms.split(",")
    if unknown := set(arms) - set(CHANGES):
        parser.error(f"there is no arm {', '.join(sorted(unknown))}: choose from {', '.join(CHANGES)}")
    path = HERE / "evaluation.json"
    if given.speed:
        found = {**training.read_json(path), "speed": speed(given.speed)}
        print(json.dumps(found["speed"]))
        if given.write:
            training.write_json(path, found)
        return
    torch.set_num_threads(1)
    people = given.people or max(1, given.pairs // PER_PERSON)
    learning = dataclasses.replace(Training.of("mini"), **lesson).validated()
    if given.arms == "drawn":
        add_drawn(given.stream, given.pairs, people, changes, path if given.write else None)
        return
    lessons, rows = complete(given.stream, given.pairs, people, arms, changes, learning)
    if not chunks.is_main():
        return
    found = report(lessons, rows, given.stream, people, changes, learning)
    print(in_words(found))
    if given.sheets and "ours" in rows:
        given.sheets.mkdir(parents=True, exist_ok=True)
        write_sheets(given.stream, people, rows["ours"], given.sheets)
    if given.write:
        kept = training.read_json(path)
        training.write_json(path, found | ({"speed": kept["speed"]} if "speed" in kept else {}))
        if "ours" in rows:
            write_sheets(given.stream, people, rows["ours"], HERE)


if __name__ == "__main__":
    main()
