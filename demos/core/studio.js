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
  // Gradio heads a message with its type ("Error") and keeps its title to itself; connection.js hears the titles.
  const titles = new Map();
  window.studioTitle = (html, title) => typeof html === "string" && title && titles.set(said(html), title);
  const headed = (toast) => {
    const text = [...toast.querySelectorAll("[data-testid=toast-text]")].pop()?.textContent ?? "";
    const own = /file/i.test(text) ? "File refused" : "Not done"; // what a widget of Gradio says by itself has none
    const title = titles.get(text) ?? (toast.classList.contains("error") ? own : "Note");
    const head = toast.querySelector(".toast-title");
    if (text && head && head.dataset.title !== title) head.dataset.title = title;
  };
  new MutationObserver(() => {
    document.querySelectorAll(".chat-pane [data-testid=user], .chat-pane [data-testid=bot]").forEach(named);
    document.querySelectorAll(".toast-body").forEach(headed);
  }).observe(document.body, { subtree: true, childList: true, attributeFilter: ["aria-label"] });
}
