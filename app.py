"""Latent Studio: one page, a tab per paper. `python app.py` serves it at http://127.0.0.1:7860.

The page is up first; a model is loaded when a run first needs it. Importing this file imports no torch.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

# Before gradio is imported: nothing is reported to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from pipelines.core import environment

try:
    environment.check()  # gradio reads its own while it is imported
except ValueError as error:
    sys.exit(str(error))
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  (must come before anything that looks for CUDA)
else:
    from demos.core import quick_gradio

    quick_gradio.load()

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from demos.core import (
    door,
    handlers,
    hold,
    links,
    mcp_tools,
    present,
    readers,
    sessions,
    tabs,
    theme,
    visitors,
    widgets,
)
from demos.core.page_state import KeepsWork, clear_section
from demos.core.payloads import Page
from demos.core.runs import PLACES
from pipelines.core import images, lane, ray_head, troubles, workers, zero
from pipelines.core.registry import Registry, from_environment
from pipelines.models.sdxl import BASES

try:
    visitors.claim_gradio_files()  # before a widget keeps its first picture
except ValueError as error:  # LATENT_STUDIO_WORK names a folder that cannot be used
    sys.exit(str(error))
images.only_our_decoders()
log = logging.getLogger(__name__)
MARK = """<svg viewBox="0 0 48 48" aria-hidden="true"><rect width="48" height="48" rx="9" fill="#14525e"/>
<g fill="#e9c777"><circle cx="34" cy="24" r="8"/><circle cx="21" cy="17" r="3"/><circle cx="21" cy="31" r="3"/>
<circle cx="21" cy="24" r="3.6"/><circle cx="12.5" cy="13" r="1.7"/><circle cx="12.5" cy="20.5" r="1.9"/>
<circle cx="12.5" cy="27.500" r="1.9"/><circle cx="12.5" cy="35" r="1.7"/></g></svg>"""
MASTHEAD = f"""<header class="masthead">{MARK}<div><h1>Latent Studio</h1>{{overview}}
<p>Research papers that you can use, one tab each.</p></div></header>"""
COLOPHON = """<footer class="colophon"><p><kbd>Ctrl</kbd> + <kbd>Enter</kbd> runs, <kbd>Esc</kbd> stops. Every picture and
every answer here is made by a model. What you send and what is
made of it stays on the machine that serves this page, for your browser only, until a day after your last visit or until you clear it.
Code and our own models: Apache-2.0.</p></footer>"""

MOST_WORKERS = 64
"""On one machine."""
MOST_WAIT = 1536
"""Runs that may go or wait before a cluster, whose size is not known when the page is built."""
UPLOAD = {"mini": "40mb", "full": "400mb"}
"""Largest file that is taken: a person learnt by the full set has about 100 MB."""


class StudioPage(KeepsWork, Page):
    """Calls are checked, and what a visitor's page shows is kept."""

    status: Callable[[], str]
    """The line at the top of the page."""
    warm: Callable[[lane.Job], None] | None = None
    """Loads the first tab's models."""


def build(registry: Registry, model_set: str = "mini") -> StudioPage:
    """The whole page, as `gr.Blocks` ready to launch."""
    links.LINKS.clear()
    with StudioPage(title="Latent Studio", analytics_enabled=False) as page:
        with gr.Row(elem_classes="top"):
            gr.HTML(MASTHEAD.format(overview=present.header_html(tabs.discover())), padding=False)
            widgets.status_line(registry, model_set)
        with gr.Tabs(elem_classes="papers", overflow_behavior="wrap") as papers:
            for tab in tabs.discover():
                with gr.Tab(tab.name, id=tab.slug, elem_id=hold.paper_id(tab.slug), render_children=True):
                    tab.build(registry, model_set)
        clear_section(handlers.forget_visitor)
        gr.HTML(COLOPHON, padding=False)
        links.bind(papers, page.keep_work(handlers.is_running, widgets.interrupted))
        page.status = lambda: widgets.status_text(registry, model_set)
        handlers.show_on_nothing(page)
    handlers.name_public(page)
    elsewhere = registry.mode == "zero" or isinstance(registry, workers.PageRegistry)
    if model_set == "mini" and not elsewhere:  # another set would be fetched
        page.warm = functools.partial(warm_first, registry, model_set)
    if registry.mode == "zero":
        zero.install(registry)  # after the tabs have declared their models
    page.api_open = False  # and no limit on the queue: who may wait is decided in demos/core/readers.py
    return page


def warm_first(registry: Registry, model_set: str, job: lane.Job) -> None:
    """Load the first tab's models, where the host has the memory for them, so that the first click need not wait."""
    first = tabs.discover()[0]
    job.check()
    try:
        if first.warm is not None:
            first.warm(registry, model_set)
    except MemoryError as error:  # whoever runs something is told
        log.info("the first tab's models are not loaded in advance: %s", error)


def serve(
    page: StudioPage,
    host: str | None = None,
    port: int | None = None,
    block: bool = True,
    model_set: str = "mini",
    warm: bool = False,
    mcp: bool = False,
):
    """Launch with the studio's settings. `host` and `port` default to GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.
    `warm`: load the first tab's models once somebody has the page before him. `mcp`: the public functions are tools as well."""
    if mcp:
        mcp_tools.install()
    visitors.open_for(f"{model_set}-{port or os.environ.get('GRADIO_SERVER_PORT') or 'usual'}")
    watch = readers.Readers(page)
    app_kwargs = watch.app_kwargs()
    app_kwargs["middleware"].insert(0, Middleware(visitors.Cookie))
    to_warm = [page.warm] if warm and page.warm is not None else []

    def state(request: Request) -> JSONResponse:
        if to_warm:
            lane.warm(to_warm.pop())
        return JSONResponse(status(page, watch, request))

    app_kwargs["routes"] += [
        Route("/healthz", lambda request: PlainTextResponse("ok")),
        Route("/studio/status", state),
        present.route(tabs.discover, model_set),
    ]
    app_kwargs["lifespan"] = door.install(host, UPLOAD[model_set], app_kwargs)
    return page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        theme=theme.StudioTheme(),
        head=theme.head(),
        js=theme.script(),
        footer_links=["api", "settings"],
        max_file_size=UPLOAD[model_set],
        allowed_paths=[str(visitors.page_folder())],
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=mcp,
        max_threads=40 + handlers.GPU["concurrency_limit"],  # all that wait hold one
        state_session_capacity=sessions.capacity(),
        app_kwargs=app_kwargs,
    )


def status(page: StudioPage, watch: readers.Readers, request: Request) -> dict[str, Any]:
    """What the page asks for every few seconds: the line at its top, whether a run of it goes on, and whether
    the stream of its session can be taken up again. Who asks is there, and waits for his run."""
    going = page.runs_of(visitors.visitor(request), request.query_params.get("page", ""))
    for session in going:
        watch.waits(session)
    stream = watch.has_stream(request.query_params.get("session", ""))
    return {"line": page.status(), "running": bool(going), "stream": stream, "layout": page.kept_layout}


def on_workers(asked: str) -> Registry:
    """The registry of a page whose models are in workers, which are started or joined while the page is built.

    Raises:
        ValueError: Ray is not installed, or this is ZeroGPU.
    """
    if os.environ.get("SPACES_ZERO_GPU"):
        raise ValueError("--workers is not for ZeroGPU, which runs every job in a process of its own: leave it out.")
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None:
        raise ValueError('--workers needs Ray, which is not installed here: pip install ".[ray]", then start again.')
    if asked.isdigit():
        ray_head.behind_a_token()
    from pipelines.core import ray_workers  # the optional extra

    pool = workers.Pool()
    registry = workers.PageRegistry(pool)
    lane.send_elsewhere(pool.dispatch, pool)
    handlers.let_wait(MOST_WAIT if asked.startswith("ray:") else PLACES * int(asked))
    ray_workers.Cluster(asked, pool, registry, visitors.root()).start()
    return registry


def _workers(text: str) -> str:
    number = text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MOST_WORKERS
    if not number and not re.fullmatch(r"ray://[\w.-]+:\d{1,5}", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is neither a number of workers from 1 to {MOST_WORKERS} nor an address such as ray://head:10001"
        )
    return text


def _port(text: str) -> int:
    low, high = environment.PORTS
    if not text.isascii() or not text.isdigit() or not low <= int(text[:9]) <= high:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {low} to {high}")
    return int(text)


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latent Studio: research papers that you can use.")
    parser.add_argument("--host", help="address to listen on (GRADIO_SERVER_NAME; default 127.0.0.1)")
    parser.add_argument("--port", type=_port, help="port (GRADIO_SERVER_PORT; default the first free one from 7860)")
    parser.add_argument(
        "--model-set",
        choices=tuple(BASES),
        default=os.environ.get("LATENT_STUDIO_MODEL_SET", "mini"),
        help="mini: small models that come along, for any CPU; full: the published models, for a GPU",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="serve the public functions as MCP tools, at /gradio_api/mcp"
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        help="run the models in so many processes of this machine, or in a cluster of Ray (ray://host:10001)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.model_set not in BASES:  # argparse does not check a default, which may come from the environment
        parser.error(f"LATENT_STUDIO_MODEL_SET is {chosen.model_set!r}: choose one of {', '.join(BASES)}")
    return chosen


def _named() -> tuple[str, int | None]:
    """Host and port that were asked for; without a port Gradio takes the first free one."""
    variables = os.environ
    host = chosen.host or variables.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    return host, chosen.port or environment.number(variables, "GRADIO_SERVER_PORT", *environment.PORTS)


chosen = options(sys.argv[1:] if __name__ == "__main__" else [])
try:
    if __name__ == "__main__":
        environment.check_address(*_named())  # before seconds go by
    gc.disable()
    demo = build(on_workers(chosen.workers) if chosen.workers else from_environment(), chosen.model_set)
    gc.freeze()  # the page lives as long as its server: nobody need look through it for garbage
    gc.enable()
    if __name__ == "__main__":
        visitors.close_on_signal()
        serve(demo, *_named(), model_set=chosen.model_set, warm=True, mcp=chosen.mcp)
except ValueError as error:
    if not troubles.ours(error):
        raise
    sys.exit(str(error))
except OSError as error:  # the disk is full, or the port was taken this very second
    sys.exit(troubles.sentence(error) or f"The page cannot be served: {error}")
