"""ZeroGPU's way of working, with a real fork in place of the platform: arguments and items cross pickled."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import closing

import pytest

from pipelines.core import lane, zero
from pipelines.core.lane import IDLE, Progress, Result
from pipelines.core.registry import Registry
from pipelines.core.weights import ModelSpec

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def forked(duration):
    """A decorator like the platform's: the generator runs in a forked process, each item comes pickled."""

    def decorate(function):
        def call(*arguments):
            assert duration(*arguments) > 0
            here, there = multiprocessing.Pipe()

            def child() -> None:
                try:
                    for item in function(*arguments):
                        there.send(item)
                finally:
                    there.send("the end")

            process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
            process.start()
            try:
                while (item := here.recv()) != "the end":
                    yield item
            finally:
                process.kill()
                process.join()

        return call

    return decorate


@pytest.fixture
def registry():
    made = Registry("cpu")
    zero.install(made, forked)
    yield made
    lane.send_elsewhere(None)


def work(job: lane.Job, registry: Registry, number: int, wait: bool = False) -> tuple[int, int, list[str]]:
    """Module level, because the platform pickles it by name."""
    job.progress(0.5, "half way")
    job.emit({"number": number})
    if number < 0:
        raise ValueError("The number is below zero: choose another.")
    return number * 2, os.getpid(), [part["key"] for part in registry.status()]


def test_work_runs_in_the_other_process_with_the_inherited_registry(registry):
    registry.declare(ModelSpec("toy", "nowhere", lambda spec: object(), "Apache-2.0", 1))
    items = [item for item in lane.stream(work, registry, 21) if item is not IDLE]
    assert items[0] == Progress(0.5, "half way") and items[1] == {"number": 21}
    assert isinstance(items[-1], Result)
    doubled, process, keys = items[-1].value
    assert doubled == 42 and process != os.getpid() and keys == ["toy"]


def test_an_error_arrives_with_its_type_and_its_sentence(registry):
    with pytest.raises(ValueError, match="below zero"):
        list(lane.stream(work, registry, -1))


def test_closing_ends_the_other_process(registry):
    with closing(lane.stream(work, registry, 1)) as items:
        assert next(item for item in items if item is not IDLE) == Progress(0.5, "half way")
    assert not multiprocessing.active_children()


def test_without_it_work_runs_here():
    doubled, process, _ = lane.run_blocking(work, Registry("cpu"), 4)
    assert doubled == 8 and process == os.getpid()
