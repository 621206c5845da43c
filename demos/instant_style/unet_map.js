// The map of the UNet: a button for each place, pressed where prompt B speaks. gr.HTML calls this with `element`, `props` and `watch`.
// Its value, both ways, is the names of those places with spaces between.
const buttons = () => [...element.querySelectorAll("button[data-place]")];

function show() {
  const chosen = new Set(String(props.value || "").split(/[\s,]+/));
  for (const button of buttons()) {
    const speaks = chosen.has(button.dataset.place);
    button.setAttribute("aria-pressed", String(speaks));
    button.querySelector("i").textContent = speaks ? "B" : "A";
  }
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-place]");
  if (!button) return;
  const chosen = buttons().filter((one) => (one === button) !== (one.getAttribute("aria-pressed") === "true"));
  props.value = chosen.map((one) => one.dataset.place).join(" ");
  show();
});
watch("value", show);
show();
