() => {
  // While a button brings another picture, prompt or person, nothing starts with the one before: hold.py says when.
  const STARTS = ".studio-run, .starts-run, .example";
  const LONGEST_MS = 60000; // an answer that never comes must not lock the page
  const holds = new Map(); // name: { nodes, timer }
  const held = (node) => [...holds.values()].some((one) => one.nodes.some((start) => start.contains(node)));

  window.studioRelease = (name) => {
    const { nodes, timer } = holds.get(name) || { nodes: [] };
    holds.delete(name);
    clearTimeout(timer);
    for (const node of nodes) if (!held(node)) node.removeAttribute("aria-disabled");
  };
  window.studioHold = (name, paper) => {
    window.studioRelease(name);
    const nodes = [...document.querySelectorAll(STARTS)].filter((node) => node.closest(`#${paper}`));
    for (const node of nodes) node.setAttribute("aria-disabled", "true");
    holds.set(name, { nodes, timer: setTimeout(() => window.studioRelease(name), LONGEST_MS) });
  };
  const stop = (event) => {
    // The second click of a double click, and a key that is held down, start nothing either.
    const again = event.detail > 1 || event.repeat;
    if (!(again && event.target.closest?.(STARTS)) && !(holds.size && held(event.target))) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  document.addEventListener("click", stop, true);
  document.addEventListener("keydown", (event) => event.key === "Enter" && !event.shiftKey && stop(event), true);
  document.addEventListener("keypress", (event) => event.key === "Enter" && !event.shiftKey && stop(event), true);
}
