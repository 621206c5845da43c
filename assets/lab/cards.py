"""Write the model cards from what the scripts measured: ``python -m assets.lab.cards`` (a test compares them).

Words stand in the ``card.md.j2`` of each folder, figures come from ``manifest.json`` and ``evaluation.json``, so that
a card cannot say what nobody measured.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines import golden_noise
from pipelines.golden_noise import lab
from pipelines.models import sdxl_tiny

HERE = Path(__file__).parents[1]


def facts(folder: str, name: str = "manifest.json") -> dict[str, Any]:
    path = HERE / folder / name
    return json.loads(path.read_text()) if path.exists() else {}


def tried(folder: str) -> str:
    """The lab notes kept beside the weights."""
    path = HERE / folder / "TRIED.md"
    return path.read_text().strip() if path.exists() else ""


# --- filters


def number(value: float | None, form: str) -> str:
    """As an f-string writes it; "-" where nothing was measured."""
    return "-" if value is None else format(value, form)


def share(value: float, digits: int = 1) -> str:
    """ "87.3 %"."""
    return f"{100 * value:.{digits}f} %"


def percent(entry: dict[str, Any]) -> str:
    """ "87.3 % [84.1, 90.0] of 1000"."""
    low, high = (max(0.0, edge) for edge in entry["interval"])
    return f"{share(entry['share'])} [{100 * low:.1f}, {100 * high:.1f}] of {entry['of']:,}"


def spread(one: dict[str, Any]) -> str:
    """ "0.162 (0.149; 0.079 to 0.218)"."""
    return "-" if "q1" not in one else f"{one['mean']:.3f} ({one['median']:.3f}; {one['q1']:.3f} to {one['q3']:.3f})"


# --- figures of trainings and evaluations


def runs(last: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A training after those whose weights it began with; none where there was none."""
    return [*last.get("earlier", ()), last] if last else []


def minutes(run: dict[str, Any]) -> list[float]:
    """Of a training and of what it went on from, the first one first."""
    return [*(minutes(run["before"]) if run.get("before") else []), run["minutes"]]


def launched(run: dict[str, Any]) -> str:
    """What starts a training; with several processes it goes through torchrun."""
    return f"torchrun --nproc-per-node {run['processes']}" if run.get("processes", 1) > 1 else "python"


def schedule() -> dict[str, Any]:
    settings, product = sdxl_tiny.cut_schedule(sdxl_tiny.SCHEDULE_STEPS), 1.0
    low, high, steps = settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, settings["num_train_timesteps"]
    for index in range(steps):
        product *= 1 - (low + (high - low) * index / (steps - 1)) ** 2
    return {"steps": steps, "signal": product}


def unguided(concepts: dict[str, Any]) -> dict[str, Any]:
    """The first point of strength 0."""
    points = (point for probes in concepts.values() for row in probes.values() for point in row["points"])
    return next(point for point in points if point["strength"] == 0)


def agreeing(concepts: dict[str, Any]) -> list[str]:
    """The concepts whose probe that detects best has the highest PNES too."""
    return [
        concept
        for concept, rows in concepts.items()
        if max(rows, key=lambda p: rows[p]["accuracy"]) == max(rows, key=lambda p: rows[p]["pnes"]["value"])
    ]


WORDS = Environment(
    loader=FileSystemLoader(HERE),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
WORDS.filters |= {"f": number, "share": share, "percent": percent, "spread": spread}
WORDS.globals |= {one.__name__: one for one in (facts, tried, runs, minutes, launched, schedule, unguided, agreeing)}
WORDS.globals |= {"golden_noise": golden_noise, "ARMS": lab.ARMS}


def card(folder: str) -> str:
    found = facts(folder)
    words = WORDS.get_template(f"{folder}/card.md.j2")
    return words.render(folder=folder, found=found, training=found.get("training", {}))


FOLDERS = sorted(path.parent.relative_to(HERE).as_posix() for path in HERE.rglob("card.md.j2"))
CARDS = {folder: functools.partial(card, folder) for folder in FOLDERS}


def main() -> None:
    for folder, write in CARDS.items():
        (HERE / folder / "README.md").write_text(write())
        print(f"assets/{folder}/README.md")


if __name__ == "__main__":
    main()
