// The timeline: stages of denoising, and in each the letter of the prompt that speaks. gr.HTML calls this with `element`, `props`, `watch`.
// Its value, both ways, is the plan: "AAAABBBBBB". The prompts are the lines of the first text field beside it.
const bar = element.querySelector(".timeline-bar");
const palette = element.querySelector(".timeline-palette");
const LETTERS = element.querySelector(".timeline").dataset.letters;
const fixed = JSON.parse(element.querySelector(".timeline").dataset.names);
let picked = null; // the letter that is put onto the stages
let painting = false;
let listed = "";

const plan = () => String(props.value || "");
const colour = (letter) => `timeline-${LETTERS.indexOf(letter)}`;

function names() {
  if (Object.keys(fixed).length) return fixed;
  const field = element.closest(".studio-controls")?.querySelector("textarea");
  const lines = (field ? field.value : "").split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(lines.slice(0, LETTERS.length).map((line, place) => [LETTERS[place], line]));
}

function put(stage, letter) {
  const now = plan();
  if (!letter || stage < 0 || stage >= now.length || now[stage] === letter) return;
  props.value = now.slice(0, stage) + letter + now.slice(stage + 1);
  draw();
}

function pick(letter) {
  picked = letter;
  for (const chip of palette.children) chip.setAttribute("aria-pressed", String(chip.dataset.letter === letter));
}

function drawPalette() {
  const known = names();
  const now = JSON.stringify(known);
  if (now === listed) return;
  listed = now;
  palette.replaceChildren(
    ...Object.entries(known).map(([letter, words]) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = colour(letter);
      chip.dataset.letter = letter;
      chip.title = words;
      const mark = document.createElement("b");
      mark.textContent = letter;
      chip.append(mark, " ", words);
      return chip;
    }),
  );
  pick(picked && known[picked] ? picked : Object.keys(known)[1] || Object.keys(known)[0] || null);
  draw();
}

function draw() {
  const known = names();
  const letters = plan();
  while (bar.children.length > letters.length) bar.lastChild.remove();
  while (bar.children.length < letters.length) {
    const cell = document.createElement("button");
    cell.type = "button";
    bar.append(cell);
  }
  [...letters].forEach((letter, stage) => {
    const cell = bar.children[stage];
    const joined = letters[stage - 1] === letter ? " joined" : "";
    cell.className = colour(letter) + joined;
    cell.textContent = letter;
    cell.tabIndex = stage === (Number(bar.dataset.at) || 0) ? 0 : -1;
    cell.setAttribute("aria-label", `Stage ${stage + 1} of ${letters.length}: ${letter}, ${known[letter] || "no such prompt"}`);
  });
}

const cellAt = (event) => [...bar.children].indexOf(document.elementFromPoint(event.clientX, event.clientY)?.closest("button"));

// Mouse and finger: a letter is dragged onto stages, or picked and painted over them.
element.addEventListener("pointerdown", (event) => {
  if (event.button || !event.isPrimary) return;
  const chip = event.target.closest(".timeline-palette button");
  if (chip) pick(chip.dataset.letter);
  if (!chip && !event.target.closest(".timeline-bar button")) return;
  event.target.releasePointerCapture?.(event.pointerId);
  painting = true;
  put(cellAt(event), picked);
});
element.addEventListener("pointermove", (event) => painting && put(cellAt(event), picked));
for (const over of ["pointerup", "pointercancel"]) document.addEventListener(over, () => (painting = false));

// Keys: arrows move along the stages, a letter puts that prompt there, Enter or the space bar the one that is picked.
bar.addEventListener("keydown", (event) => {
  const stage = [...bar.children].indexOf(event.target);
  const moved = { ArrowLeft: stage - 1, ArrowRight: stage + 1, Home: 0, End: bar.children.length - 1 }[event.key];
  const letter = event.key.toUpperCase();
  if (moved !== undefined && bar.children[moved]) {
    bar.dataset.at = String(moved);
    draw();
    bar.children[moved].focus();
  } else if (event.key === " " || event.key === "Enter") put(stage, picked);
  else if (names()[letter] && !event.ctrlKey && !event.metaKey && !event.altKey) put(stage, letter);
  else return;
  event.preventDefault();
});
bar.addEventListener("focusin", (event) => (bar.dataset.at = String([...bar.children].indexOf(event.target))));
palette.addEventListener("click", (event) => {
  const chip = event.target.closest("button");
  if (chip) pick(chip.dataset.letter); // by keyboard
});

watch("value", draw);
drawPalette();
draw();
const timer = setInterval(() => (element.isConnected ? drawPalette() : clearInterval(timer)), 500); // an example fills the prompts in silently
