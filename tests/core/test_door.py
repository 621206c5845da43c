"""The HTTP door and what stands behind it: hosts, origins, routes, calls, uploads, whose session and whose file it is."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from starlette.testclient import TestClient

import app
from demos.core import door, endpoint, hosts, owners, payloads, visitors
from demos.core import quota as core_quota
from demos.core.owners import Visitor
from tests.core.test_app import wait_until

ADA, BEN = "v" + "a" * 24, "v" + "b" * 24
FILE = {"meta": {"_type": "gradio.FileData"}}
PROMPT = ["a red cube", 0, 1, 5.0, 1.0, "mini", "npnet"]


def sentence(answer: httpx.Response) -> str:
    """The one sentence of a refusal."""
    text = answer.json()["error"]
    assert text.endswith(".") and "\n" not in text and len(text) < 300 and "Traceback" not in text
    return text


def call(served: str, name: str, values: list, **more) -> tuple[str, str]:
    """The last event of a raw call, and its sentence where it is an error."""
    body = json.dumps({"data": values})
    posted = httpx.post(
        f"{served}/gradio_api/call/{name}", content=body, headers={"content-type": "application/json"}, **more
    )
    if posted.status_code != 200:
        return "refused", sentence(posted)
    stream = httpx.get(f"{served}/gradio_api/call/{name}/{posted.json()['event_id']}", timeout=60).text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    return kind, json.loads(data)["error"] if kind == "error" else data


def upload(served: str, content: bytes, name: str = "a.png", **more) -> dict:
    """File data of something sent."""
    answer = httpx.post(f"{served}/gradio_api/upload", files={"files": (name, content)}, **more)
    return FILE | {"path": answer.json()[0]}


# --- hosts, origins, proxies ---


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:7860", "localhost"), ("127.0.0.1", "127.0.0.1"), ("[::1]:7860", "::1"), ("LocalHost.", "localhost"),
        ("a.b:1@evil.org", ""), ("127.0.0.1/x", ""), ("", ""), ("x y", ""), ("[::1", ""), ("a:123456", ""),
    ],
)  # fmt: skip
def test_the_name_in_a_host_header(host: str, name: str):
    assert hosts.host_name(host) == name


def test_hosts_are_loopback_the_one_listened_on_a_spaces_own_and_those_that_were_added():
    alone = hosts.Rules.of(None, {})
    assert alone.serves("localhost:1") and alone.serves("127.0.0.1") and alone.serves("[::1]:80")
    assert not any(map(alone.serves, ("evil.org", "localhost.evil.org", "192.168.1.5", "0.0.0.0", "")))
    space = hosts.Rules.of(
        "0.0.0.0", {"SPACE_HOST": "some-body.hf.space", "LATENT_STUDIO_HOSTS": "studio.example, b.example"}
    )
    assert all(map(space.serves, ("some-body.hf.space", "studio.example:443", "b.example", "192.168.1.5:7860")))
    assert not space.serves("evil.org") and space.trusts("10.1.2.3")
    assert hosts.Rules.of("studio.lan", {}).serves("studio.lan:7860")


def test_proxies_are_those_that_the_host_named():
    rules = hosts.Rules.of(None, {"LATENT_STUDIO_PROXIES": "127.0.0.1, 10.0.0.0/8"})
    assert rules.trusts("127.0.0.1") and rules.trusts("10.9.9.9") and not rules.trusts("192.168.0.1")
    assert not hosts.Rules.of(None, {}).trusts("127.0.0.1") and not rules.trusts("unix socket")
    with pytest.raises(ValueError, match=r"LATENT_STUDIO_PROXIES holds 'nginx'.*\.$"):
        hosts.Rules.of(None, {"LATENT_STUDIO_PROXIES": "nginx"})


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True), ("https://a.hf.space", "a.hf.space", True),
        ("https://a.hf.space", "a.hf.space:443", True), ("http://localhost:3000", "localhost:7860", False),
        ("https://evil.org", "127.0.0.1:7860", False), ("null", "127.0.0.1:7860", False), ("", "127.0.0.1:7860", False),
    ],
)  # fmt: skip
def test_an_origin_is_the_host_itself(origin: str, host: str, same: bool):
    assert hosts.same_origin(origin, host) is same


@pytest.fixture
def seen() -> list[dict]:
    return []


@pytest.fixture
def behind(seen: list[dict]) -> Callable[..., TestClient]:
    """A door with given rules before an application that notes what reaches it."""

    async def inside(scope, receive, send):
        seen.append({"headers": {k.decode(): v.decode() for k, v in scope["headers"]}, "visitor": scope["client"][0]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    queue = SimpleNamespace(event_ids_to_events={}, pending_event_ids_session={}, pending_messages_per_session={})
    gradio_app = SimpleNamespace(get_blocks=lambda: SimpleNamespace(_queue=queue, fns={}))

    def make(peer: str = "127.0.0.1", host: str = "127.0.0.1:7860", **environment: str) -> TestClient:
        rules = hosts.Rules.of(None, environment)
        guarded = door.Door(inside, rules, core_quota.Quota(10**6), gradio_app)
        return TestClient(guarded, base_url=f"http://{host}", client=(peer, 5000))

    return make


def test_forwarded_headers_count_from_a_named_proxy_only(behind, seen: list[dict]):
    said = {"x-forwarded-host": "a.example", "x-forwarded-for": "1.2.3.4, 8.8.8.8", "x-forwarded-proto": "https"}
    said |= {"x-gradio-server": "http://evil.org", "forwarded": "host=evil.org"}
    assert behind().get("/", headers=said).status_code == 200
    assert not [name for name in seen[-1]["headers"] if "forwarded" in name or "gradio" in name]
    assert seen[-1]["visitor"] == "127.0.0.1"

    trusted = behind(LATENT_STUDIO_PROXIES="127.0.0.1", LATENT_STUDIO_HOSTS="a.example")
    assert trusted.get("/", headers=said).status_code == 200
    assert seen[-1]["headers"]["x-forwarded-host"] == "a.example" and "x-gradio-server" not in seen[-1]["headers"]
    assert seen[-1]["visitor"] == "8.8.8.8", "what stands left of it the visitor may have written himself"
    assert trusted.get("/", headers=said | {"x-forwarded-host": "evil.org"}).status_code == 421
    assert behind(peer="9.9.9.9", LATENT_STUDIO_PROXIES="127.0.0.1").get("/", headers=said).status_code == 200
    assert seen[-1]["visitor"] == "9.9.9.9"


def test_a_space_behind_its_proxy(behind, seen: list[dict]):
    client = behind("10.0.0.7", "me-studio.hf.space", SPACE_HOST="me-studio.hf.space")
    said = {
        "x-forwarded-for": "1.1.1.1, 8.8.4.4, 10.0.0.9",
        "x-forwarded-proto": "https",
        "sec-fetch-site": "same-origin",
    }
    said |= {"origin": "https://me-studio.hf.space"}
    assert client.post("/gradio_api/reset", json={"event_id": "x"}, headers=said).status_code == 200
    assert seen[-1]["visitor"] == "8.8.4.4"
    framed = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe", "referer": "https://huggingface.co/"}
    assert client.get("/", headers=framed).status_code == 200, "the hub shows the page in a frame"
    assert client.post("/gradio_api/reset", json={"event_id": "x"}, headers=framed).status_code == 403


def test_other_sites_neither_post_nor_read(served: str):
    evil, png = {"origin": "https://evil.org"}, {"files": ("a.png", b"x")}
    for answer in (
        httpx.post(f"{served}/gradio_api/upload", files=png, headers=evil),
        httpx.post(f"{served}/gradio_api/upload", files=png, headers={"origin": "null"}),
        httpx.post(f"{served}/gradio_api/upload", files=png, headers={"sec-fetch-site": "cross-site"}),
        httpx.post(f"{served}/gradio_api/upload", files=png, headers={"origin": "http://localhost:3000"}),
        httpx.post(f"{served}/gradio_api/queue/join", json={"data": []}, headers=evil),
        httpx.post(f"{served}/gradio_api/cancel", json={}, headers=evil),
        httpx.get(f"{served}/config", headers=evil),
        httpx.options(f"{served}/gradio_api/upload", headers=evil | {"access-control-request-method": "POST"}),
    ):
        assert answer.status_code == 403 and "another site" in sentence(answer)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.post(f"{served}/gradio_api/upload", files=png, headers={"origin": served}).status_code == 200
    assert not [n for n in httpx.get(f"{served}/config", headers={"origin": served}).headers if "access-control" in n]


def test_a_foreign_name_gets_nothing(served: str):
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=x"):
        answer = httpx.get(f"{served}{path}", headers={"host": "evil.org"})
        assert answer.status_code == 421 and "'evil.org'" in sentence(answer)
    assert httpx.get(f"{served}/healthz", headers={"host": "10.0.0.3:7860"}).text == "ok"
    page = httpx.get(f"{served}/config", headers={"x-forwarded-host": "evil.org", "x-gradio-server": "http://evil.org"})
    assert "evil.org" not in page.text


# --- routes ---


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"), ("POST", "/gradio_api/component_server"), ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"), ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"),
        ("POST", "/gradio_api/process_recording"), ("GET", "/gradio_api/deep_link"), ("GET", "/?deep_link=../x"),
        ("POST", "/login"), ("GET", "/gradio_api/token"), ("GET", "/gradio_api/runs"), ("POST", "/gradio_api/stream/x"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"), ("GET", "/gradio_api/dev/reload"), ("GET", "/docs"),
        ("GET", "/gradio_api/custom_component/x/client/y/z"), ("GET", "/gradio_api/mcp"), ("DELETE", "/gradio_api/upload"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_routes_that_nothing_here_needs_are_shut(served: str, request_: tuple[str, str]):
    answer = httpx.request(request_[0], served + request_[1])
    assert answer.status_code == 404 and sentence(answer)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "http://example.com/x.png", "//example.com/x", "%00", "a" * 5000, "/tmp", "..", "%ed%a0%80"]
)
def test_no_file_but_uploads_and_results_is_served(served: str, path: str):
    answer = httpx.get(f"{served}/gradio_api/file={path}")
    assert answer.status_code == 403 and "no such file" in sentence(answer)


# --- calls ---

ODD_BODIES = {
    "no JSON": (b"{", "no JSON"),
    "no object": (b"[]", "but must be an object"),
    "data is a number": (b'{"data": 1}', "data is 1 but must be a list"),
    "deep": (b'{"data": ' + b"[" * 1000 + b"]" * 1000 + b"}", "deeper than"),
    "too deep to read": (b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deeper than"),
    "deep enough for pydantic": (b'{"data": ' + b"[" * 300 + b"]" * 300 + b"}", "deeper than"),
    "5000 digits": (b'{"data": [' + b"9" * 5000 + b"]}", "thousands of digits"),
    "no UTF-8": (b'{"data": ["\xff"]}', "not UTF-8"),
    "half a character as session": (b'{"data": [], "session_hash": "\\ud800"}', "session '\\ud800' is none"),
    "session is a list": (b'{"data": [], "session_hash": []}', "session_hash is an empty list"),
    "no such function": (b'{"data": [], "fn_index": 99999, "session_hash": "x"}', "no function 99999"),
    "function is a text": (b'{"data": [], "fn_index": "1"}', "fn_index is '1'"),
    "a batch": (b'{"data": [], "batched": true}', "batched is true"),
    "a token": (b'{"data": [], "oauth_token": "x"}', "oauth_token"),
    "large": (b'{"data": ["' + b"a" * 9_000_000 + b'"]}', "more than 8 MB"),
}


@pytest.mark.parametrize(("body", "words"), ODD_BODIES.values(), ids=ODD_BODIES)
@pytest.mark.parametrize("route", ["call/golden_noise", "run/golden_noise", "queue/join"])
def test_a_body_that_is_no_call_gets_one_sentence(served: str, route: str, body: bytes, words: str):
    began = time.monotonic()
    answer = httpx.post(f"{served}/gradio_api/{route}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (404, 413, 422) and words in sentence(answer)
    assert time.monotonic() - began < 2


def test_calls_of_nothing(served: str):
    for route, body, words in (
        ("call/nothing", {"data": []}, "no endpoint /nothing"),
        ("run/nothing", {"data": []}, "no endpoint /nothing"),
        ("call/v2/guide", {"x": 1}, "takes no 'x'"),
        ("call/v2/remove_object", {}, "needs image, mask"),
        ("queue/join", {"data": []}, "names no session_hash"),
        ("cancel", {}, "session_hash is nothing (null)"),
        ("reset", {"event_id": 7}, "event_id is 7"),
    ):
        assert words in sentence(httpx.post(f"{served}/gradio_api/{route}", json=body))
    stream = httpx.get(f"{served}/gradio_api/queue/data?session_hash=unheard").text
    assert json.loads(stream.removeprefix("data: "))["session_not_found"] is True
    assert "no such call" in httpx.get(f"{served}/gradio_api/call/guide/nothing").text


def test_the_client_shows_the_sentence(served: str):
    nested: list = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(Exception, match="nested deeper than 32 levels"):
        Client(served, verbose=False).predict(prompt=nested, concepts={}, api_name="/guide")


# --- file data in a call ---

ODD_PATHS = {
    "an address": ("https://example.com/a.png", "is an address"),
    "another address": ("//example.com/a.png", "is an address"),
    "a data URL": ("data:image/png;base64,AAAA", "is an address"),
    "a foreign path": ("/etc/passwd", "no file that was sent here"),
    "NUL": ("/tmp/\0", "no file that was sent here"),
    "half a character": ("/tmp/\ud800", "no file that was sent here"),
    "a folder": ("/tmp", "no file that was sent here"),
    "very long": ("a" * 5000, "no file that was sent here"),
    "nothing": ("", "but must be a file"),
    "a number": (7, "but must be a file"),
}


@pytest.mark.parametrize(("path", "words"), ODD_PATHS.values(), ids=ODD_PATHS)
def test_a_file_field_takes_what_was_sent_only(served: str, path: object, words: str, capfd, caplog):
    for value in (FILE | {"path": path}, {"path": path}):
        kind, text = call(served, "remove_object", [value, value, 0, 0, "mini"])
        assert kind == "error" and words in text and text.endswith(".")
    assert "Traceback" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize("place", range(len(PROMPT)))
def test_file_data_in_another_field_is_refused_and_nothing_is_fetched(
    served: str, place: int, monkeypatch: pytest.MonkeyPatch, capfd
):
    asked: list = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *a, **k: asked.append(a))
    for value in (
        FILE | {"path": "https://example.com/a.png"},
        FILE | {"path": "/etc/passwd"},
        {"path": "x", "meta": 7},
    ):
        for nested in (value, [value], {"a": [value]}):
            kind, text = call(served, "golden_noise", [*PROMPT[:place], nested, *PROMPT[place + 1 :]])
            assert kind == "error" and "no file can be sent there" in text
    assert not asked and "Traceback" not in capfd.readouterr().err


def test_file_data_with_odd_parts(served: str):
    sent = upload(served, b"no picture")
    for more in (
        {"size": "x"},
        {"orig_name": []},
        {"meta": None},
        {"meta": {"_type": "x"}},
        {"is_stream": True},
        {"is_stream": "?"},
    ):
        kind, text = call(served, "remove_object", [sent | more, sent, 0, 0, "mini"])
        assert kind == "error" and "parts that it cannot have" in text
    kind, text = call(served, "remove_object", [[sent], sent, 0, 0, "mini"])
    assert kind == "error" and "must be a file" in text


def test_a_link_out_of_the_upload_folder_is_not_followed(served: str, tmp_path: Path):
    sent, secret = upload(served, b"link"), tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    Path(sent["path"]).unlink()
    Path(sent["path"]).symlink_to(secret)
    kind, text = call(served, "remove_object", [sent, sent, 0, 0, "mini"])
    assert kind == "error" and "no file that was sent here" in text
    assert httpx.get(f"{served}/gradio_api/file={sent['path']}").status_code == 403


def test_too_many_and_too_few_values(served: str):
    for values in (PROMPT[:-1], [], [*PROMPT, "", "", 1]):
        kind, text = call(served, "golden_noise", values)
        assert kind == "error" and f"brings {len(values)} values and /golden_noise takes 9: prompt, seed" in text


def test_half_a_character_is_named(served: str):
    kind, text = call(
        served, "guide", ["hello \ud83d", {"humour": 0.3}, "", 0, 8, "mini", 0.7, 0.95, "share", "all", ""]
    )
    assert kind == "error" and "prompt holds U+D83D, which is no character" in text


@pytest.mark.parametrize(
    "name", ["golden_noise", "remove_object", "train_person", "portrait", "guide", "train_concept"]
)
def test_every_endpoint_refuses_another_model_set(served: str, name: str):
    parameters = Client(served, verbose=False).view_api(return_format="dict")["named_endpoints"][f"/{name}"][
        "parameters"
    ]
    place = [parameter["parameter_name"] for parameter in parameters].index("model_set")
    values = [parameter["parameter_default"] for parameter in parameters]
    for other, words in (
        ("full", "runs the model set mini, not full"),
        ("maxi", "'maxi' is unknown"),
        (None, "is nothing (null)"),
    ):
        kind, text = call(served, name, [*values[:place], other, *values[place + 1 :]])
        assert kind == "error" and words in text


def test_an_endpoint_without_a_model_set_cannot_be_declared():
    with pytest.raises(AssertionError, match="no model set"):
        endpoint.Endpoint("x", (endpoint.Parameter("a", endpoint.TEXT),), (), "")


def test_types_are_checked_before_anything_is_done():
    for kind, good, bad in (
        (endpoint.TEXT, ["", "a"], [None, 1, [], {}]),
        (endpoint.WHOLE, [1, 2.0], [None, True, "1", [1]]),
        (endpoint.FLAG, [True, False], [None, 0, "yes"]),
        (endpoint.TABLE, [{}], [None, [], "a"]),
        (endpoint.FILES, [[]], [None, {}, "a"]),
    ):
        parameter = endpoint.Parameter("max_steps", kind)
        assert [parameter.read(value) for value in good] == good
        for value in bad:
            with pytest.raises(ValueError, match=r"^The max steps (is|are) .* but must be .*\.$"):
                parameter.read(value)
    assert endpoint.Parameter("person", endpoint.FILE, optional=True).read(None) is None


# --- page events, which a program can call as well ---


def test_page_events_get_one_sentence_too(served: str, capfd):
    numbers = {getattr(f.fn, "__name__", ""): index for index, f in reversed(app.demo.fns.items())}
    for name, values, words in (
        ("restore", [FILE | {"path": "/etc/passwd"}], "no file that was sent here"),
        ("restore", [FILE | {"path": "https://example.com/x"}], "is an address"),
        ("compare", [None, FILE | {"path": "https://example.com/x"}, 0, "npnet", 1, 5, 1], "no file can be sent there"),
        ("compare", [None, "a", "many", "npnet", 1, 5, 1], "cannot hold what came for it"),
        ("compare", [None, "a", 1, "magic", 1, 5, 1], "cannot hold what came for it"),
        ("example", [], "names no part of the page"),
        ("pick", [None], "names no part of the page"),
    ):
        body = {"data": values, "fn_index": numbers[name], "session_hash": "page-events", "trigger_id": 1}
        assert httpx.post(f"{served}/gradio_api/queue/join", json=body).status_code == 200
        assert words in httpx.get(f"{served}/gradio_api/queue/data?session_hash=page-events", timeout=20).text
    assert "Traceback" not in capfd.readouterr().err


def test_a_browser_that_keeps_no_cookie_gets_its_page(served: str, capfd):
    number, function = next((n, f) for n, f in app.demo.fns.items() if f.name == "give_back")
    body = {"data": [""], "fn_index": number, "session_hash": "no-cookie"}
    if function.queue:
        assert httpx.post(f"{served}/gradio_api/queue/join", json=body).status_code == 200
        told = httpx.get(f"{served}/gradio_api/queue/data?session_hash=no-cookie", timeout=20).text
        assert '"success":true' in told
    else:
        assert httpx.post(f"{served}/gradio_api/run/predict", json=body).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("index", [7, "x", [1], [1, None], [float("nan"), 1], [10**400, 1], {"x": 1}, None])
def test_a_click_on_a_picture_has_a_place(index: object):
    with gr.Blocks():
        picture = gr.Image()
    clicked = SimpleNamespace(targets=[(picture._id, "select")])

    def event(index: object) -> gr.EventData:
        return gr.EventData(picture, {"index": index, "value": None})

    assert payloads._is_of_page(clicked, event([3, 4.5])) and not payloads._is_of_page(clicked, event(index))


# --- uploads ---


def pieces_of_uploads() -> set[Path]:
    """What an upload that broke off would leave; Gradio's file widgets leave empty ones of the same name in a page's folder."""
    return {piece for piece in Path(visitors.upload_folder()).rglob("tmp*") if piece.is_file() and piece.stat().st_size}


def test_what_is_no_upload_gets_a_sentence_and_leaves_nothing(served: str):
    before = pieces_of_uploads()
    for more in (
        {"data": {"files": "x"}},
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=q"}},
    ):
        assert httpx.post(f"{served}/gradio_api/upload", **more).status_code == 400
    text = b'--q\r\ncontent-disposition: form-data; name="files"\r\n\r\nx\r\n--q--\r\n'
    answer = httpx.post(
        f"{served}/gradio_api/upload", content=text, headers={"content-type": "multipart/form-data; boundary=q"}
    )
    assert answer.status_code == 400 and "no upload" in sentence(answer)
    assert pieces_of_uploads() <= before


def test_uploads_are_counted_and_removed_files_give_room_back(tmp_path: Path):
    now, me, other = [0.0], Visitor("1.1.1.1"), Visitor("1.1.1.1", ADA)
    quota = core_quota.Quota(1000, files_held=3, files_hour=4, total=10**15, clock=lambda: now[0])
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        path.write_bytes(b"x" * 100)
    assert quota.room(me) == quota.held == 15_000
    quota.add(me, [str(path) for path in paths[:3]])
    assert quota.room(other) == 15_000, "each visitor has a share of his own"
    with pytest.raises(core_quota.Refusal, match="You have 3 files here"):
        quota.room(me)
    paths[0].unlink()
    assert quota.room(me) == 14_800
    paths[0].write_bytes(b"")
    paths[1].unlink()
    quota.add(me, [str(paths[3])])
    paths[2].unlink()
    with pytest.raises(core_quota.Refusal, match="You sent 4 files within an hour"):
        quota.room(me)
    now[0] = 3_601
    assert quota.room(me) == 14_800
    paths[3].write_bytes(b"x" * 100)
    quota.held = 50
    with pytest.raises(core_quota.Refusal, match="files you have here, your share"):
        quota.room(me)
    quota.total = 0
    with pytest.raises(core_quota.Refusal, match="no room for more files"):
        quota.room(other)


def test_uploads_beyond_the_share_are_refused_while_they_come(served: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(core_quota.Quota, "room", lambda self, visitor: 1_000)
    before = pieces_of_uploads()

    def pieces():
        yield b'--q\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 10_000

    kind = {"content-type": "multipart/form-data; boundary=q"}
    answer = httpx.post(f"{served}/gradio_api/upload", content=pieces(), headers=kind)
    assert answer.status_code == 413 and "larger together" in sentence(answer)
    answer = httpx.post(f"{served}/gradio_api/upload", files={"files": ("a.png", b"x" * 400_000)})
    assert answer.status_code == 413
    assert pieces_of_uploads() <= before


# --- whose session and whose file it is ---


def test_a_file_belongs_to_who_sent_it_and_to_whom_it_was_made_for():
    known = owners.Owners()
    ada, ben, plain, far = (
        Visitor("1.1.1.1", ADA),
        Visitor("1.1.1.1", BEN),
        Visitor("1.1.1.1", "a1"),
        Visitor("2.2.2.2", "a2"),
    )
    hers = str(visitors.workspace(ADA) / "a.png")
    known.sent([hers], ada)
    assert known.may_use(hers, ada, "x") and known.may_use(hers, ada, "y") and known.may_fetch(hers, ada)
    for stranger in (ben, plain, far):
        assert not known.may_use(hers, stranger, "x") and not known.may_fetch(hers, stranger)
    sent, made = (str(visitors.home() / visitors.GUESTS / name) for name in ("b.png", "c.png"))
    assert not known.may_use(sent, plain, "one"), "nobody sent it"
    known.sent([sent], plain)
    assert known.may_use(sent, plain, "passing") and known.may_use(sent, plain, "another"), "shared at an address"
    known.stays("one")
    assert known.may_use(sent, plain, "one") and known.may_use(sent, plain, "one"), (
        "the first session that stays has it"
    )
    assert not known.may_use(sent, plain, "two") and known.may_fetch(sent, plain)
    assert not known.may_use(sent, far, "one") and not known.may_fetch(sent, far) and not known.may_fetch(sent, ada)
    known.sent([sent], plain)
    assert known.may_use(sent, plain, "two"), "who sends the same has it as well"
    known.made([made], plain, "one")
    assert known.may_use(made, plain, "one") and not known.may_use(made, plain, "two")
    page = visitors.page_folder() / "first.png"
    page.write_bytes(b"x")
    assert all(known.may_use(str(page), who, "x") and known.may_fetch(str(page), who) for who in (ada, ben, plain, far))


def test_what_a_browser_sent_and_got_is_nobody_elses(served: str):
    def browser() -> httpx.Client:
        client = httpx.Client(base_url=served)
        client.get("/")
        assert visitors.COOKIE in client.cookies
        return client

    ada, ben, nobody = browser(), browser(), httpx.Client(base_url=served)
    file = FILE | {"path": ada.post("/gradio_api/upload", files={"files": ("a.png", b"hers")}).json()[0]}
    assert ada.get(f"/gradio_api/file={file['path']}").content == b"hers"
    for client in (ben, nobody):
        assert client.get(f"/gradio_api/file={file['path']}").status_code == 403
    for number, (client, words) in enumerate(
        ((ada, "not a picture"), (ben, "sent here by you"), (nobody, "sent here by you"))
    ):
        session = f"browser-{number}"
        body = {"data": [file, file, 0, 0, "mini"], "fn_index": _number("remove_object"), "session_hash": session}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        assert words in client.get(f"/gradio_api/queue/data?session_hash={session}", timeout=30).text
    for client in (ben, nobody):
        for answer in (
            client.get("/gradio_api/queue/data?session_hash=browser-0"),
            client.get("/gradio_api/heartbeat/browser-0"),
            client.post("/gradio_api/cancel", json={"session_hash": "browser-0", "fn_index": 1, "event_id": "x"}),
            client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 1, "session_hash": "browser-0"}),
        ):
            assert answer.status_code == 403 and "somebody else's" in sentence(answer)


def joined(served: str, session: str, values: list) -> str:
    """What the queue tells a session of one call to `/remove_object`."""
    body = {"data": values, "fn_index": _number("remove_object"), "session_hash": session}
    assert httpx.post(f"{served}/gradio_api/queue/join", json=body).status_code == 200
    return httpx.get(f"{served}/gradio_api/queue/data?session_hash={session}", timeout=30).text


def test_a_program_cannot_name_what_another_program_sent(served: str):
    sent, client = upload(served, b"mine alone"), Client(served, verbose=False)
    wait_until(lambda: client.session_hash in owners.OWNERS._staying)
    assert "not a picture" in joined(served, client.session_hash, [sent, sent, 0, 0, "mini"])
    assert "no file that was sent here by you" in joined(served, "second", [sent, sent, 0, 0, "mini"])
    assert "not a picture" in joined(served, client.session_hash, [sent, sent, 0, 0, "mini"])


def test_one_reader_of_a_session(served: str):
    session = f"reader-{os.getpid()}"
    body = {"data": [" ", *PROMPT[1:]], "fn_index": _number("golden_noise"), "session_hash": session}
    assert httpx.post(f"{served}/gradio_api/queue/join", json=body).status_code == 200
    app.demo._queue.pending_event_ids_session[session].add("never ends")  # so that the stream stays open
    url = f"{served}/gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", url, timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data:")
        second = httpx.get(url)
        assert second.status_code == 409 and "one reader at a time" in sentence(second)
        assert any("process_completed" in line for line in lines), "the first reader goes on"
    wait_until(lambda: httpx.get(url, timeout=20).status_code != 409, 5)


def test_a_browser_takes_over_its_own_stream(served: str):
    ada, session = httpx.Client(base_url=served), f"blip-{os.getpid()}"
    ada.get("/")
    body = {"data": [" ", *PROMPT[1:]], "fn_index": _number("golden_noise"), "session_hash": session}
    url = f"/gradio_api/queue/data?session_hash={session}"
    with ada.stream("GET", f"/gradio_api/heartbeat/{session}") as heartbeat:  # a page is there
        assert next(heartbeat.iter_lines())
        assert ada.post("/gradio_api/queue/join", json=body).status_code == 200
        app.demo._queue.pending_event_ids_session[session].add("never ends")
        with ada.stream("GET", url, timeout=20) as first:
            assert next(first.iter_lines()).startswith("data:")
            with ada.stream("GET", url, timeout=20) as second:
                assert second.status_code == 200


def test_a_session_is_its_visitors(behind, seen: list[dict]):
    asked = {"data": [], "event_id": None, "fn_index": None}
    proxied = behind(LATENT_STUDIO_PROXIES="127.0.0.1")
    mine, other = ({"x-forwarded-for": address} for address in ("8.8.8.8", "9.9.9.9"))
    assert proxied.get("/gradio_api/heartbeat/abc", headers=mine).status_code == 200
    assert proxied.get("/gradio_api/heartbeat/abc", headers=mine).status_code == 200
    for answer in (
        proxied.get("/gradio_api/heartbeat/abc", headers=other),
        proxied.get("/gradio_api/queue/data?session_hash=abc", headers=other),
        proxied.post("/goodbye", content="abc", headers=other),
        proxied.post("/gradio_api/cancel", json={"session_hash": "abc", "fn_index": 1, "event_id": "x"}, headers=other),
    ):
        assert answer.status_code == 403 and "somebody else's" in sentence(answer)
    assert asked and len(seen) == 2


def _number(api_name: str) -> int:
    return next(index for index, function in app.demo.fns.items() if function.api_name == api_name)
