() => {
  // Keys: Ctrl+Enter (or Cmd+Enter) presses the visible tab's primary button, Esc its Stop button.
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].find((node) => node.offsetParent !== null && !node.disabled);
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        const run = visible("button.studio-run");
        if (!run) return;
        event.preventDefault();
        event.stopPropagation();
        // A field tells the server its text when it changes; leave that a moment before the click reads it.
        setTimeout(() => run.click(), 60);
      } else if (event.key === "Escape" && document.querySelector(".progress-line.running")) {
        const stop = visible("button.studio-stop");
        if (stop) stop.click();
      }
    },
    true
  );
  // On a narrow screen the results lie below the controls: go there when a run starts.
  document.addEventListener("click", (event) => {
    const starts = event.target.closest("button.studio-run, .chips button.example");
    if (!starts || window.innerWidth > 820) return;
    const panel = visible(".studio-results");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (panel) panel.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  });
}
