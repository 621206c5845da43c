() => {
  // What Gradio leaves to the mouse or without a name of its own, for those who use keys or have the page read to them.
  const label = (node) => node.closest(".block")?.querySelector('[data-testid="block-label"]')?.innerText.trim() ?? "";
  const set = (node, name, value) => node.getAttribute(name) === value || node.setAttribute(name, value);

  // --- two pictures under one slider: a slider, with a value that arrow keys change ---

  const STEPS = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, PageDown: -25, PageUp: 25, Home: -100, End: 100 };
  // The handle's place in percent of the picture, and where that picture lies.
  function place(handle) {
    const image = handle.parentElement.querySelector("img.fixed");
    const room = handle.parentElement.getBoundingClientRect();
    const shape = image?.naturalHeight ? image.naturalWidth / image.naturalHeight : room.width / room.height;
    const width = Math.min(room.width, room.height * shape);
    const left = (room.width - width) / 2;
    const moved = new DOMMatrix(getComputedStyle(handle).transform).e;
    return { room, left, width, now: Math.round((100 * (moved - left)) / width) };
  }
  const tell = (handle) => {
    const now = Math.min(Math.max(place(handle).now, 0), 100);
    set(handle, "aria-valuenow", String(now));
    set(handle, "aria-valuetext", `${100 - now} % of the second picture`);
  };
  function slide(handle, by) {
    const { room, left, width, now } = place(handle);
    const wanted = Math.min(Math.max(now + by, 0), 100);
    const y = room.top + room.height / 2;
    const to = { clientX: room.left + left + (wanted / 100) * width, clientY: y, bubbles: true, cancelable: true, view: window };
    handle.dispatchEvent(new MouseEvent("mousedown", to)); // Gradio puts the handle where it is taken
    window.dispatchEvent(new MouseEvent("mouseup", to));
    requestAnimationFrame(() => tell(handle));
  }
  document.addEventListener("keydown", (event) => {
    const handle = event.target.closest?.('[data-testid="slider"][role="slider"]');
    if (!handle || !(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    slide(handle, STEPS[event.key]);
  });
  document.addEventListener("mouseup", () => document.querySelectorAll('[role="slider"]:hover').forEach(tell));

  // --- names ---

  const MENDS = {
    '[data-testid="slider"]': (handle) => {
      if (handle.getAttribute("role") === "slider") return;
      const about = { role: "slider", tabindex: "0", "aria-label": label(handle), "aria-valuemin": "0", "aria-valuemax": "100" };
      for (const [name, value] of Object.entries(about)) set(handle, name, value);
      tell(handle);
    },
    // All places for files have one name, which is not what stands there.
    "button.upload-container": (zone) => set(zone, "aria-label", `${label(zone)}: ${zone.innerText.replace(/\s+/g, " ").trim()}`),
    // "Thumbnail 1 of 4", whatever is written on it.
    "button.thumbnail-item": (thumb) => {
      const caption = thumb.innerText.trim();
      if (!caption) return;
      set(thumb, "aria-label", caption);
      thumb.querySelectorAll("img").forEach((image) => set(image, "alt", ""));
    },
    // A name needs a role.
    ".block > .empty[aria-label]": (empty) => {
      set(empty, "role", "img");
      set(empty, "aria-label", `${label(empty)}: nothing yet`);
    },
    "button:has(> .image-frame.selectable)": (button) => {
      const about = button.querySelector("img")?.alt ?? label(button);
      set(button, "aria-label", `${about}. Arrow keys move a cross over the picture, Enter clicks there.`);
    },
    "footer button img": (image) => set(image, "alt", ""), // beside its word
  };
  let due = 0;
  function mend() {
    due = 0;
    for (const [which, how] of Object.entries(MENDS)) document.querySelectorAll(which).forEach(how);
  }
  const soon = () => (due ||= setTimeout(mend, 200)); // while an answer streams in, the page changes at each token
  new MutationObserver(soon).observe(document.body, { subtree: true, childList: true });
  soon();
}
