"""The server is killed at random moments of runs: what was done is there when it is started again, and nothing is left lying about."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from tests.browser.test_studio import WIDE, browser, expect, sync_api  # noqa: F401
from tests.browser.test_visits import RUN_LINE, RUN_MS, Guest, Studio, pytestmark, studio  # noqa: F401

KILLS = 10


@pytest.mark.long
def test_killed_at_random_moments(studio: Studio, browser: sync_api.Browser):  # noqa: F811
    chance = random.Random(16)
    guest = Guest(browser, studio.url, "light", **WIDE)
    guest.draws(1)
    guest.drawn()
    done, kinds = 1, set()
    for kill in range(KILLS):
        guest.draws(chance.choice([1, 4, 60]))
        guest.page.wait_for_timeout(int(1000 * chance.uniform(0.0, 6.0)))
        left = studio.files()
        studio.kill()
        studio.start()
        expect(guest.page.locator("#studio-lost:not(:empty)")).to_have_count(0)
        guest.again()
        assert not studio.files() & left, f"kill {kill}: files of the killed server"
        shown = guest.results()
        assert done <= shown <= done + 1, f"kill {kill}: {shown} results, {done} were done before"
        done = shown
        expect(guest.page.locator(RUN_LINE)).not_to_have_class(re.compile("running"))
        kinds.add(guest.page.locator(RUN_LINE).get_attribute("class"))
        for image in guest.page.locator(".history-strip:visible img").all():
            assert guest.page.request.get(image.get_attribute("src")).status == 200
        for page in Path(studio.work).rglob("pages/*.json"):
            json.loads(page.read_text())
    guest.draws(1)
    guest.page.locator(f"{RUN_LINE}.done").wait_for(timeout=RUN_MS)
    guest.context.close()
    assert len(kinds) > 1, "some were killed before they were done, some after"
