() => {
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].find((node) => node.offsetParent !== null && !node.disabled);
  // On a narrow screen the results lie below the controls: go there when a run starts.
  document.addEventListener("click", (event) => {
    const starts = event.target.closest("button.studio-run, .chips button.example");
    if (!starts || window.innerWidth > 820) return;
    const panel = visible(".studio-results");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (panel) panel.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  });
  // A chat shows HTML, so that what was typed stands there as it was; what is copied from it, or read aloud, is the text.
  const said = (html) => {
    const inside = document.createElement("template");
    inside.innerHTML = html.replaceAll("<br>", "\n");
    return inside.content.textContent;
  };
  let copied = null;
  document.addEventListener("click", (event) => (copied = event.target.closest?.(".chat-pane")), true);
  const write = navigator.clipboard?.writeText.bind(navigator.clipboard);
  if (write)
    navigator.clipboard.writeText = (text) => write(copied ? said(text) : text);
  const named = (node) => {
    const label = node.getAttribute("aria-label") ?? "";
    if (label === node.dataset.said || !/[&<]/.test(label)) return;
    node.dataset.said = said(label);
    node.setAttribute("aria-label", node.dataset.said);
  };
  new MutationObserver(() =>
    document.querySelectorAll(".chat-pane [data-testid=user], .chat-pane [data-testid=bot]").forEach(named)
  ).observe(document.body, { subtree: true, childList: true, attributeFilter: ["aria-label"] });
}
