// The painter: a picture, and over it what a visitor marks. gr.HTML calls this with `element`, `props` and `watch`.
// Its value, both ways, is {key, picture, mask}: the pictures as data URIs, the mask opaque where something is marked.
const COLOUR = "rgb(255, 64, 64)";
const KEPT = 60;
const find = (name) => element.querySelector(`.painter-${name}`);
const stage = find("stage");
const picture = find("picture");
const canvas = find("canvas");
const ring = find("ring");
const size = find("size");
const pen = canvas.getContext("2d");
let shown = null; // what the page holds, so that our own changes do not come back as somebody else's
let past = []; // masks as data URIs, the present one at `at`
let at = -1;
let erases = false;
let last = null; // where the stroke that is going on has got to
let loading = 0;

const opened = (uri) =>
  new Promise((resolve) => {
    if (!uri) return resolve(null);
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = uri;
  });

function buttons() {
  find("undo").disabled = at <= 0;
  find("redo").disabled = at >= past.length - 1;
  find("brush").setAttribute("aria-pressed", String(!erases));
  find("erase").setAttribute("aria-pressed", String(erases));
}

async function redraw() {
  const mine = ++loading;
  const mask = await opened(past[at]);
  if (mine !== loading) return false;
  pen.globalCompositeOperation = "source-over";
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (mask) pen.drawImage(mask, 0, 0, canvas.width, canvas.height);
  buttons();
  return true;
}

function tell() {
  shown = { ...shown, mask: past[at] };
  props.value = shown;
  buttons();
}

function commit() {
  past = [...past.slice(0, at + 1), canvas.toDataURL("image/png")].slice(-KEPT);
  at = past.length - 1;
  tell();
}

async function step(by) {
  if (last || at + by < 0 || at + by >= past.length) return;
  at += by;
  if (await redraw()) tell();
}

async function receive() {
  const value = props.value;
  if (!value || !value.picture) {
    stage.hidden = true;
    shown = null;
    return;
  }
  if (shown && value.key === shown.key && value.mask === shown.mask) return;
  const same = shown && value.key === shown.key;
  shown = { key: value.key, picture: value.picture, mask: value.mask };
  last = null;
  if (!same) {
    const image = await opened(value.picture);
    if (!image || shown.key !== value.key) return;
    picture.src = value.picture;
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    past = [];
    at = -1;
  }
  past = [...past.slice(0, at + 1), value.mask]; // a mask from outside can be undone like a stroke
  at = past.length - 1;
  await redraw();
  stage.hidden = false;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale, scale };
}

function stroke(to) {
  pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
  pen.strokeStyle = COLOUR;
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Number(size.value) * to.scale;
  pen.beginPath();
  pen.moveTo(last.x, last.y);
  pen.lineTo(to.x + 0.01, to.y); // a line of no length is not drawn
  pen.stroke();
  last = to;
}

function lift() {
  last = null;
  commit();
}

function hover(event) {
  const box = stage.getBoundingClientRect();
  const width = Number(size.value);
  ring.style.width = ring.style.height = `${width}px`;
  ring.style.transform = `translate(${event.clientX - box.left - width / 2}px, ${event.clientY - box.top - width / 2}px)`;
}

// Without a mouse: arrow keys move the brush, the space bar puts it down, and lifts it again.
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let key = null; // where the brush is, as shares of the picture, while keys move it

function keyed() {
  const box = canvas.getBoundingClientRect();
  const event = { clientX: box.left + key.x * box.width, clientY: box.top + key.y * box.height };
  hover(event);
  const there = `${Math.round(100 * key.x)} % across, ${Math.round(100 * key.y)} % down`;
  find("keys").textContent = `${last ? (erases ? "Erasing" : "Painting") : "Brush lifted"}: ${there}. Space ${last ? "lifts it" : "puts it down"}.`;
  return place(event);
}
canvas.addEventListener("focus", () => {
  if (at < 0 || !canvas.matches(":focus-visible")) return;
  stage.classList.add("keyed");
  key = { x: 0.5, y: 0.5 };
  keyed();
});
canvas.addEventListener("blur", () => {
  if (key && last) lift();
  key = null;
  stage.classList.remove("keyed");
  find("keys").textContent = "";
});
canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!key || (!move && event.key !== " ") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  if (move) {
    const by = Math.max(Number(size.value) / 4, 2) * (event.shiftKey ? 8 : 1);
    const within = (share) => Math.min(Math.max(share, 0), 1);
    key = { x: within(key.x + (by * move[0]) / box.width), y: within(key.y + (by * move[1]) / box.height) };
    if (last) stroke(keyed());
  } else if (!event.repeat) {
    if (last) lift();
    else stroke((last = keyed()));
  }
  keyed();
});

canvas.addEventListener("pointerdown", (event) => {
  if (event.button || !event.isPrimary || at < 0) return;
  event.preventDefault();
  canvas.blur(); // the mouse takes the brush over from the keys
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(last);
  hover(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (key) return;
  hover(event);
  if (!last || !event.isPrimary) return;
  const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const point of between.length ? between : [event]) stroke(place(point));
});
canvas.addEventListener("pointerup", (event) => {
  if (last && event.isPrimary) lift();
});
canvas.addEventListener("pointercancel", () => {
  // Two fingers: the visitor zooms the page.
  if (!last) return;
  last = null;
  redraw();
});
find("brush").addEventListener("click", () => ((erases = false), buttons()));
find("erase").addEventListener("click", () => ((erases = true), buttons()));
find("undo").addEventListener("click", () => step(-1));
find("redo").addEventListener("click", () => step(1));
find("clear").addEventListener("click", () => {
  if (at < 0 || last) return;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  commit();
});
watch("value", receive);
buttons();
receive();
