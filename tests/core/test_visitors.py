"""Whose work is whose: two visitors are strictly apart, and what is to go goes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from demos.core import visitors


def request(secret: str | None = None, session: str | None = None, host: str = "127.0.0.1") -> SimpleNamespace:
    cookies = {} if secret is None else {visitors.COOKIE: secret}
    return SimpleNamespace(cookies=cookies, session_hash=session, client=SimpleNamespace(host=host))


ADA, BEN = visitors.visitor(request("a" * 43)), visitors.visitor(request("b" * 43))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own, and the module as it is before anything was opened."""
    monkeypatch.setenv(visitors.VARIABLE, str(tmp_path / "work"))
    for name, value in (("_home", None), ("_page", None), ("_held", {}), ("_server", "studio")):
        monkeypatch.setattr(visitors, name, value)
    monkeypatch.setattr(visitors.atexit, "register", lambda *call, **names: None)
    return tmp_path / "work"


# --- who ---------------------------------------------------------------------------------------------------------


def test_the_same_browser_is_the_same_visitor_whatever_its_session():
    assert visitors.visitor(request("a" * 43, "one")) == visitors.visitor(request("a" * 43, "two")) == ADA != BEN
    assert visitors.has_page(ADA) and "aaa" not in ADA


def test_a_program_is_known_by_its_session_and_before_by_its_address():
    one, two = visitors.visitor(request(session="one")), visitors.visitor(request(session="two"))
    assert one != two and not visitors.has_page(one)
    assert visitors.visitor(request(host="1.2.3.4")) != visitors.visitor(request(host="1.2.3.5"))
    assert visitors.visitor(gr.Request(session_hash="one")) == one


@pytest.mark.parametrize("made_up", ["", "a", "a" * 44, "a" * 42 + "/", "../" * 14 + "a"])
def test_a_secret_that_no_browser_of_ours_keeps_is_none(made_up: str):
    assert visitors.visitor(request(made_up, "one")) == visitors.visitor(request(session="one"))


def test_pages_set_the_cookie_and_nothing_else_does():
    async def who(received):
        return PlainTextResponse(visitors.present())

    routes = [Route("/", lambda received: HTMLResponse("page")), Route("/who", who)]
    client = TestClient(Starlette(routes=routes, middleware=[Middleware(visitors.Cookie)]))
    assert "set-cookie" not in client.get("/who").headers
    first = client.get("/").headers["set-cookie"]
    assert all(word in first for word in ("HttpOnly", "SameSite=Lax", f"Max-Age={visitors.MAX_AGE_S}"))
    known = client.get("/who").text
    assert visitors.has_page(known)
    assert client.get("/").headers["set-cookie"] == first and client.get("/who").text == known
    assert TestClient(client.app).get("/who").text != known


def test_in_a_frame_of_another_site_the_cookie_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPACE_ID", "somebody/studio")
    assert visitors.cookie("x").endswith("HttpOnly; SameSite=None; Secure; Partitioned")


# --- where -------------------------------------------------------------------------------------------------------


def test_each_visitor_has_a_folder_that_only_the_server_can_read(work: Path):
    ada, ben = visitors.workspace(ADA), visitors.workspace(BEN)
    assert ada != ben and ada == visitors.workspace(ADA)
    assert ada.is_relative_to(work) and stat.S_IMODE(work.stat().st_mode) == stat.S_IMODE(ada.stat().st_mode) == 0o700
    assert visitors.workspace("../somebody").parent == visitors.workspace("session").parent != ada.parent


def test_a_folder_of_somebody_else_is_not_used(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "real").mkdir()
    work.symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="no folder of this user"):
        visitors.root()
    monkeypatch.delenv(visitors.VARIABLE)
    monkeypatch.setattr(visitors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(visitors, "_unusual", None)
    (tmp_path / f"latent-studio-{os.getuid()}").write_text("in the way")
    folder = visitors.root()
    assert folder == visitors.root() and folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_of_another_visitor_are_not_read(work: Path):
    own, foreign = visitors.workspace(ADA) / "a.png", visitors.workspace(BEN) / "b.png"
    link = visitors.workspace(ADA) / "link"
    link.symlink_to(foreign)
    assert visitors.may_read(ADA, own) and visitors.may_read(ADA, visitors.page_folder() / "first.png")
    guest = visitors.visitor(request(session="one"))
    for who, path in ((ADA, foreign), (ADA, link), (ADA, own.parent / ".." / BEN / "b.png"), (guest, own), (ADA, work)):
        assert not visitors.may_read(who, path)
    assert not visitors.may_read(ADA, visitors.workspace(guest) / "x") and visitors.may_read(
        guest, visitors.workspace(guest)
    )


# --- when it goes ------------------------------------------------------------------------------------------------


def aged(folder: Path, seconds: float) -> Path:
    (folder / "deep").mkdir()
    (folder / "deep" / "picture.png").write_bytes(b"x")
    os.utime(folder, (time.time() - seconds,) * 2)
    return folder


def test_work_lasts_a_day_after_the_last_visit_and_a_programs_an_hour(work: Path):
    ada, ben = aged(visitors.workspace(ADA), 90_000), aged(visitors.workspace(BEN), 80_000)
    old, new = aged(visitors.workspace("one"), 4_000), aged(visitors.workspace("two"), 3_000)
    visitors.sweep()
    assert [folder.exists() for folder in (ada, ben, old, new)] == [False, True, False, True]


def test_a_visitor_is_forgotten_at_once_and_whole(work: Path, monkeypatch: pytest.MonkeyPatch):
    gone: list[str] = []
    monkeypatch.setattr(visitors, "_listeners", [gone.append])
    ada, ben = aged(visitors.workspace(ADA), 0), aged(visitors.workspace(BEN), 0)
    visitors.forget(ADA)
    assert not ada.exists() and ben.exists() and gone == [ADA]
    assert sorted(path.name for path in ada.parent.iterdir()) == [BEN]
    visitors.forget(ADA)


def test_what_a_killed_server_left_is_removed_at_the_next_start_but_work_of_the_day_is_there(work: Path):
    ada = aged(visitors.workspace(ADA), 100)
    for folder, age in ((visitors.workspace(BEN), 90_000), (visitors.workspace("program"), 10)):
        aged(folder, age)
    dead = work / "page-0"
    dead.mkdir()
    aged(dead, 10)
    gone = work / "mini-1" / "visitors" / BEN
    gone.mkdir(parents=True)
    aged(gone, 90_000)
    for file in visitors._held.values():
        file.close()  # as the system does for a process that is killed
    visitors._held.clear()
    assert visitors.open_for("studio") == ada.parent.parent
    assert ada.exists() and not dead.exists() and not (work / "mini-1").exists()
    assert [folder.name for folder in visitors._children(visitors.home() / visitors.VISITORS)] == [ADA]
    assert not visitors._children(visitors.home() / visitors.GUESTS)


def other_server(program: str, work: Path) -> str:
    """What another process prints; without Gradio, which takes seconds to import."""
    env = {**os.environ, visitors.VARIABLE: str(work), "PYTHONPATH": str(Path(visitors.__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_servers_beside_each_other_leave_each_others_work_alone(work: Path):
    ada = aged(visitors.workspace(ADA), 90_000)
    guest = visitors.workspace("program")
    program = f"from demos.core import visitors as v; print(v.open_for('studio')); v.workspace({ADA!r}); v.sweep()"
    assert Path(other_server(program, work)) == work / "studio-2"
    assert ada.exists() and guest.exists()
    assert (work / "studio-2" / "visitors" / ADA).exists()  # waits for its visitor


def test_at_exit_what_has_no_owner_goes(work: Path):
    program = (
        f"from demos.core import visitors as v; v.open_for('studio'); v.workspace({ADA!r}); v.workspace('program'); "
        "v.page_folder(); (v.page_folder() / 'first.png').write_bytes(b'x')"
    )
    other_server(program, work)
    assert sorted(path.relative_to(work).as_posix() for path in work.rglob("*")) == [
        "studio", "studio/lock", "studio/visitors", f"studio/visitors/{ADA}",
    ]  # fmt: skip


def test_folders_come_and_go_under_many_threads(work: Path):
    problems: list[BaseException] = []

    def many(who: str) -> None:
        try:
            for number in range(150):
                visitors.workspace(who)
                if number % 7 == 0:
                    visitors.forget(who)
                if number % 50 == 0:
                    visitors.sweep()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=many, args=(who,)) for who in (ADA, ADA, BEN, "program", "another")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_a_root_that_is_removed_meanwhile_is_made_again(work: Path):
    visitors.workspace(ADA)
    shutil.rmtree(work)
    assert visitors.workspace(ADA).is_dir() and visitors.page_folder().is_dir()
