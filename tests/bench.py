"""How fast the page answers, how fast runs are, and how much memory the app takes. The last line is JSON.

    python -m tests.bench               # start-up, then runs through the public endpoint, guided decoding, drawings, removals
    python -m tests.bench --starts 9 --runs 0 --guided 0 --drawings 0 --removals 0
    python -m tests.bench --starts 0 --runs 0 --guided 0 --drawings 0 --removals 0 --portraits 3     # learning a person, portraits after it
    python -m tests.bench --starts 0 --runs 0 --guided 0 --drawings 0 --removals 0 --workers 4       # two workers beside one; needs ".[ray]"

Start-up is the time from starting the process to the first complete answer of `/`, for the app and, in turn with it,
for an empty `gr.Blocks` in the same environment. Memory is the peak of the process (VmHWM, Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import truediv
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gradio_client import Client
from PIL import Image
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from assets.megaportrait.evaluate import speed
from pipelines import georemover, golden_noise
from pipelines.concept_guidance import conversation, steering
from pipelines.concept_guidance.concepts import Concept
from pipelines.concept_guidance.layers import choose_layers
from pipelines.core import lane, ray_head, workers
from pipelines.core.lane import run_blocking
from pipelines.core.registry import Registry
from pipelines.core.weights import multiplies_halves
from pipelines.georemover import Cache, Request, Settings
from pipelines.models import sdxl, sdxl_parts
from tests import workers_page
from tests.environment import free_port
from tests.faults import storm
from tests.faults.storm import Visitor

ROOT = Path(__file__).resolve().parent.parent
EMPTY = (
    "import os, sys; os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'\n"
    "import gradio as gr\n"
    "with gr.Blocks() as page: pass\n"
    "page.launch(server_port=int(sys.argv[1]), quiet=True)\n"
)
PROMPT = "a red cube to the left of a blue ball on a wooden floor"


@contextmanager
def serving(command: list[str], port: int):
    """Run a server until the block ends; gives its process id and the seconds until `/` answered."""
    began = time.perf_counter()
    # As on a visitor's machine: only the very first start compiles the modules.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    server = subprocess.Popen(command, cwd=ROOT, env=kept, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit(f"{command} ended with {server.returncode} before it answered") from None
                time.sleep(0.01)
        yield server.pid, time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(30)


def commands(port: int) -> dict[str, list[str]]:
    return {
        "empty": [sys.executable, "-c", EMPTY, str(port)],
        "app": [sys.executable, "app.py", "--port", str(port)],
    }


def peak_mib(pid: int) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


def start_up(times: int) -> dict:
    """Seconds until the page answers, the app and an empty page in turn. One round before is thrown away."""
    seconds: dict[str, list[float]] = {"empty": [], "app": []}
    memory: dict[str, float | None] = {}
    for turn in range(times + 1):
        for name in ("empty", "app") if turn % 2 else ("app", "empty"):
            port = free_port()
            with serving(commands(port)[name], port) as (pid, took):
                memory[name] = peak_mib(pid)
                if turn:
                    seconds[name].append(round(took, 3))
        print(f"start-up {turn} of {times}: { ({n: s[-1] for n, s in seconds.items() if s} or 'warm-up') }", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "median_s": median,
        "ratio": round(median["app"] / median["empty"], 3),
        "peak_rss_mib": memory,
    }


def runs(times: int, visitors: int) -> dict:
    """One first run, `times` runs one after the other, then `visitors` at once, all with 25 steps."""
    port = free_port()
    with serving(commands(port)["app"], port) as (pid, _):
        url = f"http://127.0.0.1:{port}"
        before = peak_mib(pid)

        def run(seed: int) -> tuple[float, dict]:
            client = Client(url, verbose=False)
            began = time.perf_counter()
            facts = client.predict(prompt=PROMPT, seed=seed, steps=25, api_name="/golden_noise")[2]
            return round(time.perf_counter() - began, 3), facts

        first, facts = run(0)
        print(f"first run, with loading: {first} s", flush=True)
        after_first = peak_mib(pid)
        later = [run(seed)[0] for seed in range(1, times + 1)]
        began = time.perf_counter()
        with ThreadPoolExecutor(visitors) as pool:
            list(pool.map(run, range(visitors)))
        together = round(time.perf_counter() - began, 3)
        return {
            "device": facts["device"],
            "first_s": first,
            "later_median_s": statistics.median(later),
            "visitors": visitors,
            "visitors_s": together,
            "peak_rss_mib": {"page": before, "first run": after_first, "end": peak_mib(pid)},
        }


def guided(repeats: int) -> dict:
    """Guided decoding beside plain decoding, and both rows in one batch: mini-llama, and a random Llama of 110 M parameters
    in float32 and bfloat16."""
    mini = AutoModelForCausalLM.from_pretrained(ROOT / "assets/mini_llama", dtype=torch.float32).eval()
    found = {"mini-llama": guided_speed(mini, repeats=6 * repeats)}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        tie_word_embeddings=True,
    )
    large = LlamaForCausalLM(config).eval()
    name = f"random Llama, {sum(p.numel() for p in large.parameters()) / 1e6:.0f} M"
    for dtype in (torch.float32, torch.bfloat16):
        found[f"{name}, {str(dtype).split('.')[1]}"] = guided_speed(large.to(dtype), tokens=32, repeats=repeats)
    for kind, facts in found.items():
        print(
            f"{kind}: guided {facts['guided_speed']} of plain, the pair {facts['pair_time']} times one stream "
            f"and {facts['pair_time_of_two_plain']} times two plain ones in a batch",
            flush=True,
        )
    return found


def guided_speed(model: Any, tokens: int = 64, repeats: int = 5, prompt: int = 16) -> dict[str, float]:
    """Tokens per second of one plain stream, one guided, two plain ones in one batch, and a pair of both (per row); and the ratios.

    Half of the layers are guided at the norm before attention. The four take turns; speeds are medians, ratios are
    medians of the ratios within a turn.
    """
    body = steering.anatomy(model)
    concept = Concept("0", torch.randn(body.layers, body.width, generator=torch.Generator().manual_seed(0)))
    layers = choose_layers("best", body.layers)

    def seconds(strengths: tuple[float, ...]) -> float:
        guide = steering.Guide(model, [steering.Push(concept, strengths, layers)], len(strengths))
        prompts = [[1 + n % 7 for n in range(prompt)]] * len(strengths)
        began = time.perf_counter()
        steering.decode(model, prompts, conversation.Sampling(max_tokens=tokens), guide if guide.edits else None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    kinds = {"plain": (0.0,), "guided": (0.2,), "two": (0.0, 0.0), "pair": (0.0, 0.2)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(repeats + 1):
        for name in sorted(kinds, reverse=turn % 2 == 0):
            spent = seconds(kinds[name])
            if turn:  # the first round warms up
                taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    return {
        **{f"{name}_tokens_per_second": round(tokens / value, 2) for name, value in median.items()},
        "guided_speed": round(statistics.median(map(truediv, taken["plain"], taken["guided"])), 4),
        "pair_time": round(statistics.median(map(truediv, taken["pair"], taken["plain"])), 4),
        "pair_time_of_two_plain": round(statistics.median(map(truediv, taken["pair"], taken["two"])), 4),
    }


def drawings(times: int) -> dict:
    """Seconds of 25 steps with guidance from prompt to picture, of one picture and of two at once: with the products of the UNet in float32, and in
    bfloat16 where the processor has that in hardware; the ways take turns."""
    ways = (False, True) if multiplies_halves() else (False,)
    names = {halves: "bfloat16" if halves else "float32" for halves in ways}
    taken: dict[str, list[float]] = {f"{count}, {names[halves]}": [] for count in (1, 2) for halves in ways}
    with Registry("cpu").lease(*sdxl.MINI.parts) as parts, torch.inference_mode():
        golden = golden_noise.GoldenNoise(sdxl.build(parts), None)
        for turn in range(times + 1):
            for count in (1, 2):
                noises = torch.cat([golden_noise.draw_noise(seed, (1, 16, 16, 16)) for seed in range(count)])
                for halves in ways:
                    with mock.patch.object(sdxl_parts, "multiplies_halves", return_value=halves):
                        began = time.perf_counter()
                        golden.draw(noises, golden.embed([PROMPT] * count), sdxl.MINI.steps, sdxl.MINI.guidance)
                    if turn:  # the first round warms up
                        taken[f"{count}, {names[halves]}"].append(time.perf_counter() - began)
    found = {name: round(statistics.median(seconds), 3) for name, seconds in taken.items()}
    print(f"pictures at once, median seconds: {found}", flush=True)
    return {"threads": torch.get_num_threads(), **found}


def removals(times: int) -> dict:
    """Seconds of one removal on a rendered scene after a warm-up, at the defaults and with the faster preset."""
    registry, found = Registry("cpu"), {"threads": torch.get_num_threads()}
    for name in ("defaults", "faster"):
        seconds = []
        for turn in range(times + 1):
            pair = georemover.EXAMPLES[turn % len(georemover.EXAMPLES)].pair()
            request = Request(Image.fromarray(pair.image), pair.mask, Settings.of("mini", fast=name == "faster"))
            began = time.perf_counter()
            run_blocking(georemover.generate, registry, request, Cache())
            seconds.append(round(time.perf_counter() - began, 3))
        found[name] = {"warm_up_s": seconds[0], "median_s": statistics.median(seconds[1:]), "most_s": max(seconds[1:])}
        print(f"removal, {name}: {found[name]}", flush=True)
    return found


def portraits(times: int) -> dict:
    """Seconds of learning a person from five pictures and of a portrait after it, at the defaults and with the faster preset."""
    return speed(times)


def with_workers(rounds: int) -> dict:
    """Pictures a second of two workers and of one, each with one thread, in turn on one page each."""
    pictures, steps, found = 12, 25, {}
    speed: dict[int, list[float]] = {1: [], 2: []}
    with workers_page.serving(1, OMP_NUM_THREADS="1") as one, workers_page.serving(2, OMP_NUM_THREADS="1") as two:
        pages = {1: one, 2: two}
        for count, page in pages.items():
            found[f"ready_{count}_s"] = round(page.ready(count), 1)

        visitors = {count: [Visitor(page.address) for _ in range(4)] for count, page in pages.items()}

        def draw(count: int, each: int) -> float:
            """Pairs of pictures a second, of visitors who have the page before them."""

            def visit(number: int) -> None:
                for turn in range(each):
                    visitors[count][number].picture(storm.noise(number * each + turn, steps))

            began = time.perf_counter()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(visit, range(4)))
            return 4 * each / (time.perf_counter() - began)

        for turn in range(rounds + 1):
            for count in (1, 2) if turn % 2 else (2, 1):
                each = pictures // 4 if turn else 2
                speed[count].append(round(draw(count, each), 4))
            print(f"workers {turn} of {rounds}: { {n: s[-1] for n, s in speed.items()} }", flush=True)
    ratios = [two / one for one, two in zip(speed[1][1:], speed[2][1:], strict=True)]
    return {**found, "pairs_per_s": speed, "two_to_one": round(statistics.median(ratios), 3)}


def killed(times: int) -> dict:
    """So many workers killed at random moments while four visitors run one thing after another, each of whom must get his bytes."""
    with workers_page.serving(2, OMP_NUM_THREADS="1") as page:
        page.ready(2)
        pictures = {seed: Visitor(page.address).picture(storm.noise(seed, 8)) for seed in range(4)}
        runs, kills = workers_page.visits_with_kills(page, pictures, times, 8)
    print(f"{kills} workers killed in {runs} runs, all whole", flush=True)
    return {"killed": kills, "runs": runs}


def border(rounds: int) -> dict:
    """What a worker's border adds to a run, as a share of it: a run through a worker and the same one in this process, in turn, each
    with one thread; medians.

    Two processes draw at speeds that differ by a few per cent whatever they are asked by, so the drawing, which a run times
    itself, is compared apart from all that goes on beside it.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    ray_head.behind_a_token()
    from pipelines.core import ray_workers

    pool, here = workers.Pool(), Registry("cpu")
    there = workers.PageRegistry(pool)
    cluster = ray_workers.Cluster("1", pool, there)
    cluster.start()
    drawing: dict[str, list[float]] = {"here": [], "worker": []}
    beside: dict[str, list[float]] = {"here": [], "worker": []}
    try:
        for turn in range(rounds + 1):
            for name in sorted(drawing, reverse=turn % 2 == 0):
                lane.send_elsewhere(*((pool.dispatch, pool) if name == "worker" else (None,)))
                began = time.perf_counter()
                registry = there if name == "worker" else here
                outcome = run_blocking(golden_noise.generate, registry, golden_noise.Settings.of("mini"))
                if turn:
                    drawing[name].append(outcome.measurements["seconds"])
                    beside[name].append(time.perf_counter() - began - drawing[name][-1])
    finally:
        lane.send_elsewhere(None)
        cluster.close()
    drawn = {name: statistics.median(seconds) for name, seconds in drawing.items()}
    more = {name: statistics.median(seconds) for name, seconds in beside.items()}
    return {
        **{f"drawing_{name}_s": round(seconds, 3) for name, seconds in drawn.items()},
        **{f"beside_{name}_s": round(seconds, 4) for name, seconds in more.items()},
        "share": round((more["worker"] - more["here"]) / drawn["here"], 4),
        "drawing_ratio": round(drawn["worker"] / drawn["here"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="start-ups to measure of each page")
    parser.add_argument("--runs", type=int, default=3, help="runs after the first one; 0 loads no model")
    parser.add_argument("--visitors", type=int, default=8, help="runs at once at the end")
    parser.add_argument("--guided", type=int, default=5, help="rounds of guided decoding; 0 leaves it out")
    parser.add_argument("--drawings", type=int, default=5, help="rounds of one picture and of two; 0 leaves them out")
    parser.add_argument("--removals", type=int, default=5, help="removals at each preset; 0 leaves them out")
    parser.add_argument("--portraits", type=int, default=0, help="persons to learn, a minute each; 0 leaves them out")
    parser.add_argument("--workers", type=int, default=0, help="rounds with one worker and with two; 0 leaves them out")
    parser.add_argument("--kills", type=int, default=0, help="workers to kill in a stream of runs")
    chosen = parser.parse_args()
    result: dict = {"commit": commit(), "python": platform.python_version(), "cores": os.cpu_count()}
    if chosen.starts:
        result["start_up"] = start_up(chosen.starts)
    if chosen.runs:
        result["runs"] = runs(chosen.runs, chosen.visitors)
    if chosen.guided:
        result["guided"] = guided(chosen.guided)
    if chosen.drawings:
        result["drawings"] = drawings(chosen.drawings)
    if chosen.removals:
        result["removals"] = removals(chosen.removals)
    if chosen.portraits:
        result["portraits"] = portraits(chosen.portraits)
    if chosen.workers:
        result["border"] = border(3 * chosen.workers)
        print(f"border: {result['border']}", flush=True)
        result["workers"] = with_workers(chosen.workers)
    if chosen.kills:
        result["kills"] = killed(chosen.kills)
    print(json.dumps(result))


def commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
