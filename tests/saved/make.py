"""Files as visitors have them on their disks, made by a served studio, and the page as a browser sees it, without one.

    python -m tests.saved.make http://127.0.0.1:7860 [folder]

Nothing here but labels on the page and names of endpoints is known of the code, so that a studio of any version makes them, and
all of them go on being read when the code moves. Those in this folder are of commit 123212b; 41ba2ac makes the same, byte for byte
but for what a training measures of its time. They stand for what visitors keep, so a new format gets files beside them.
"""

from __future__ import annotations

import io
import json
import secrets
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from gradio_client.utils import apply_diff

FORM = ("checkbox", "checkboxgroup", "dropdown", "number", "radio", "slider", "textbox")


class Visitor:
    """A visitor of the page at ``address``. He knows labels, and nothing of the code behind them."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=600)
        self.http.get("/")  # the cookie
        self.config = self.http.get("/config").json()
        self.session = secrets.token_hex(8)
        self.props = {block["id"]: dict(block["props"]) for block in self.config["components"]}
        self.kinds = {block["id"]: block["type"] for block in self.config["components"]}
        self.tabs: dict[str, list[int]] = {}
        self._walk(self.config["layout"], "")

    def _walk(self, node: dict[str, Any], tab: str) -> None:
        for child in node.get("children") or ():
            number = child["id"]
            self.tabs.setdefault(tab, []).append(number)
            top = self.kinds[number] == "tabitem" and not tab
            self._walk(child, self.props[number]["label"] if top else tab)

    def name(self, number: int) -> str:
        """What a widget is called on the page."""
        props = self.props[number]
        if "button" in self.kinds[number]:
            return str(props.get("label") or props.get("value"))
        return str(props.get("label") or " ".join(props.get("elem_classes") or ()) or self.kinds[number])

    def find(self, tab: str, label: str) -> int:
        return next(number for number in self.tabs[tab] if self.name(number) == label)

    def value(self, tab: str, label: str) -> Any:
        return self.props[self.find(tab, label)].get("value")

    def set(self, tab: str, values: dict[str, Any]) -> None:
        """Fill in fields, by label."""
        for label, value in values.items():
            self.props[self.find(tab, label)]["value"] = value

    def fields_of_drop(self, tab: str, zone: str) -> list[int]:
        """The fields that change when a file is dropped there."""
        drop = [self.find(tab, zone), "upload"]
        bound = [bound for bound in self.config["dependencies"] if drop in bound["targets"]]
        return [number for one in bound for number in one["outputs"] if self.kinds[number] in FORM]

    def shows(self, number: int) -> bool:
        return self.props[number].get("visible") is True

    def form(self, fields: list[int]) -> dict[str, Any]:
        """What fields hold that can be seen, by label."""
        return {self.name(number): self.props[number].get("value") for number in fields if self.shows(number)}

    def upload(self, path: Path) -> dict[str, Any]:
        answer = self.http.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        answer.raise_for_status()
        meta = {"_type": "gradio.FileData"}
        return {"path": answer.json()[0], "orig_name": path.name, "size": path.stat().st_size, "meta": meta}

    def drop(self, tab: str, label: str, path: Path, many: bool = False) -> dict[str, Any]:
        """Drop a file on its zone; what the page shows then, by label."""
        file = self.upload(path)
        self.props[self.find(tab, label)]["value"] = [file] if many else file
        return self.fire(tab, label, "upload")

    def fire(self, tab: str, label: str, event: str = "click", data: Any = None) -> dict[str, Any]:
        """An event of a widget and those that follow it; the values that came back, by label.

        Raises:
            ValueError: the page's message.
        """
        number, back = self.find(tab, label), {}
        for bound in self.config["dependencies"]:
            if [number, event] in bound["targets"]:
                back |= self._run(bound, number, data)
        return back

    def _run(self, bound: dict[str, Any], trigger: int, data: Any) -> dict[str, Any]:
        back: dict[str, Any] = {}
        if bound["backend_fn"]:
            values = [None if self.kinds[n] == "state" else self.props[n].get("value") for n in bound["inputs"]]
            body = {"fn_index": bound["id"], "data": values, "session_hash": self.session, "trigger_id": trigger}
            back = self._shown(bound["outputs"], self._call(bound, {**body, "event_data": data}))
        for after in self.config["dependencies"]:
            if after["trigger_after"] == bound["id"] and not after["trigger_only_on_failure"]:
                back |= self._run(after, trigger, None)
        return back

    def _call(self, bound: dict[str, Any], body: dict[str, Any]) -> list[list[Any]]:
        """What each step of a handler sent."""
        if not bound["queue"]:
            answer = self.http.post("/gradio_api/run/predict", json=body)
            if answer.status_code != 200:
                raise ValueError(answer.text)
            return [answer.json()["data"]]
        answer = self.http.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        steps: list[list[Any]] = []
        where = {"session_hash": self.session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=where) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_generating":
                    sent = message["output"]["data"]
                    steps.append([apply_diff(a, b) for a, b in zip(steps[-1], sent, strict=True)] if steps else sent)
                elif message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise ValueError(message["output"].get("error"))
                    if not steps:
                        steps.append(message["output"]["data"])
                    return steps
        raise ValueError("The stream ended early.")

    def _shown(self, outputs: list[int], steps: list[list[Any]]) -> dict[str, Any]:
        back = {}
        for sent in steps:
            for number, value in zip(outputs, sent, strict=False):
                update = value if isinstance(value, dict) and value.get("__type__") == "update" else {"value": value}
                name = self.name(number)
                self.props[number].update({key: held for key, held in update.items() if key != "__type__"})
                if "value" in update:
                    back[name] = update["value"]
        return back

    def download(self, tab: str, label: str) -> bytes:
        """The file of a button that makes one when it is pressed."""
        return self.fetch(next(file for file in self.fire(tab, label).values() if isinstance(file, dict)))

    def fetch(self, file: dict[str, Any]) -> bytes:
        """The bytes of a file that the page shows or offers."""
        answer = self.http.get(f"/gradio_api/file={file['path']}")
        answer.raise_for_status()
        return answer.content


# --- what is made --------------------------------------------------------------------------------------------------

HERE = Path(__file__).parent
DROP = "Restore settings from a PNG made here"
LOAD = "Load a concept: .safetensors or .gguf"
PERSON = "Bring a person back: drop its zip"
MASK = "Use a mask from a file"
GOLDEN, REMOVAL, PORTRAIT, CONCEPT = "Golden Noise", "GeoRemover", "MegaPortrait", "Concept Guidance"
SETTINGS = {
    "golden_noise.png": (GOLDEN, DROP),
    "georemover.png": (REMOVAL, DROP),
    "georemover_endpoint.png": (REMOVAL, DROP),
    "megaportrait.png": (PORTRAIT, DROP),
    "megaportrait_endpoint.png": (PORTRAIT, DROP),
    "person.zip": (PORTRAIT, PERSON),
    "warm_welcome.safetensors": (CONCEPT, LOAD),
    "warm_welcome.gguf": (CONCEPT, LOAD),
}
"""Files that fill in fields, with the tab and the zone that they are dropped on."""
CHOSEN: dict[str, dict[str, Any]] = {
    GOLDEN: {"Prompt": "a shiny purple sphere on tiles", "Steps": 3, "Golden noise from": "redenoise"},
    REMOVAL: {
        "Picture": "scene",
        "Mark what is to go": "click",
        "Scene seed": 1234,
        "Object that is to go": 1,
        "Objects": 3,
        "Floor": "wood",
        "Light": "hard",
        "Reflection": "mirroring",
        "Variants": 1,
        "Stage 1 steps, geometry": 3,
        "Stage 2 steps, rendering": 2,
        "Memory": "float32",
        "Pace": "official",
    },
    PORTRAIT: {
        "Person": "rolled",
        "Person seed": 12,
        "Name": "Person 12",
        "Reference seed": 204,
        "Draw the face box": False,
        "Pace": "default",
        "How": "single",
        "Candidates": 1,
        "What is replaced": "face",
        "The Identity Net begins with": "reference",
        "Identity steps": 5,
        "Shading steps": 8,
        "Harmonization steps": 9,
        "Leave out, to see what it is good for": ["no_shading"],
    },
}
"""Settings that are not simply another value than the page's own."""


def another(page: Visitor, tab: str, number: int) -> Any:
    """A value that the widget does not have by itself: a step further, or the other one of two."""
    props = page.props[number]
    value = props.get("value")
    if page.name(number) in CHOSEN[tab]:
        return CHOSEN[tab][page.name(number)]
    if page.kinds[number] == "checkbox":
        return not value
    step = props.get("step") or 1
    return round(value + (step if value + step <= props.get("maximum", 1e9) else -step), 4)


def make(address: str, folder: Path) -> None:
    """The files of a studio, with settings that are not the page's own wherever a file keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Visitor(address)
    page.set(REMOVAL, {key: CHOSEN[REMOVAL][key] for key in ("Scene seed", "Objects", "Floor", "Light", "Reflection")})
    page.fire(REMOVAL, "Render it")
    page.set(
        PORTRAIT, {"Person seed": 12, "Reference seed": 204, "Steps at most": 10, "Pictures per step": 1, "Rank": 1}
    )
    page.fire(PORTRAIT, "Render")
    page.fire(PORTRAIT, "Show it")
    page.set(REMOVAL, {"Object that is to go": 1})
    page.fire(REMOVAL, "Object that is to go", "input")
    for tab in CHOSEN:
        for number in page.fields_of_drop(tab, DROP):
            if page.shows(number):
                page.props[number]["value"] = another(page, tab, number)

    def save(name: str, label: str, run: tuple[str, str]) -> None:
        (folder / name).write_bytes(page.fetch(page.fire(*run)[label]))

    save("golden_noise.png", "Download golden PNG", (GOLDEN, "Run"))
    save("georemover.png", "Download composite", (REMOVAL, "Remove"))
    with zipfile.ZipFile(io.BytesIO(page.fetch(page.value(REMOVAL, "Download all (zip)")))) as everything:
        (folder / "mask.png").write_bytes(everything.read("mask.png"))
    page.fire(PORTRAIT, "Train this person")
    (folder / "person.zip").write_bytes(page.download(PORTRAIT, "Download person"))
    save("megaportrait.png", "Download portrait", (PORTRAIT, "Make the portrait"))
    page.fire(CONCEPT, "Fill in an example")
    save("warm_welcome.safetensors", "Download .safetensors", (CONCEPT, "Train"))
    (folder / "warm_welcome.gguf").write_bytes(page.fetch(page.value(CONCEPT, "Download .gguf")))

    client = Client(address, verbose=False)
    given = {"image": handle_file(folder / "georemover.png"), "mask": handle_file(folder / "mask.png")}
    result, *_ = client.predict(**given, seed=3, steps=2, api_name="/remove_object")
    (folder / "georemover_endpoint.png").write_bytes(Path(result).read_bytes())
    reference = {"reference": handle_file(folder / "megaportrait.png"), "consent": True, "api_name": "/portrait"}
    result, _ = client.predict(person=handle_file(folder / "person.zip"), mode="preview", seed=5, **reference)
    (folder / "megaportrait_endpoint.png").write_bytes(Path(result).read_bytes())


# --- what becomes of it --------------------------------------------------------------------------------------------


def restored(address: str, path: Path) -> dict[str, Any]:
    """The fields that a dropped file fills in, on a new page."""
    tab, zone = SETTINGS[path.name]
    page = Visitor(address)
    page.drop(tab, zone, path)
    return page.form(page.fields_of_drop(tab, zone))


def api(address: str) -> dict[str, Any]:
    """What each public endpoint takes, in its order, and returns."""
    endpoints = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    return {
        name: {
            "parameters": [_parameter(one) for one in info["parameters"]],
            "returns": [_result(one) for one in info["returns"]],
        }
        for name, info in endpoints.items()
    }


def _parameter(info: dict[str, Any]) -> dict[str, Any]:
    has_default = info["parameter_has_default"]
    record = {"name": info["parameter_name"], "type": _type(info), "required": not has_default}
    return record | ({"default": info["parameter_default"]} if has_default else {})


def _result(info: dict[str, Any]) -> dict[str, Any]:
    return {"label": info["label"], "type": _type(info), "component": info["component"]}


def _type(info: dict[str, Any]) -> str:
    """In a word; "any" where several are taken."""
    return info["type"].get("title", info["type"].get("type", "any"))


def main() -> None:
    address, *folders = sys.argv[1:]
    folder = Path(folders[0]) if folders else HERE
    make(address, folder)
    forms = {name: restored(address, folder / name) for name in SETTINGS}
    for name, value in (("restored.json", forms), ("api.json", api(address))):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
