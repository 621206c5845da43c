() => {
  // One key, one meaning. Esc closes what is open, the innermost first, then stops what the visible tab runs, and only then leaves the talk;
  // Ctrl+Enter (or Cmd+Enter) presses the visible tab's primary button, unless something is open or a run goes.
  const seen = (node) => node.getClientRects().length > 0 && getComputedStyle(node).visibility !== "hidden";
  const visible = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const pressable = (selector) =>
    visible(selector).find((node) => !node.disabled && node.getAttribute("aria-disabled") !== "true");
  const LISTS = '[role="combobox"][aria-expanded="true"], [role="listbox"]';
  const DIALOGS = '[role="dialog"][aria-modal="true"], dialog[open]';
  const FULL = ".block.fullscreen";
  const PALETTE = ".georemover-editor .half-container > .wrap"; // colours and sizes of the depth editor

  // True when Esc has met something open: closed here, or left to Gradio or the browser, which closes it on the same key.
  function closes(event) {
    if (visible(LISTS).length || document.querySelector(":popover-open")) return true;
    const dialog = visible(DIALOGS).pop();
    if (dialog) {
      event.preventDefault();
      event.stopPropagation();
      (dialog.querySelector(".backdrop") || dialog.querySelector('[aria-label="Close"], .close'))?.click();
      return true;
    }
    if (visible(FULL).length || document.fullscreenElement) return true;
    const palette = visible(PALETTE).pop();
    const tool = palette && (palette.querySelector(".swatch") ? '[aria-label="Color"]' : '[aria-label$="Size"]');
    const close = palette ? palette.parentElement.querySelector(tool) : visible(".toast-close").pop();
    if (!close) return false;
    event.preventDefault();
    event.stopPropagation();
    close.click();
    return true;
  }

  const open = () => visible(`${LISTS}, ${DIALOGS}, ${FULL}`).length > 0 || Boolean(document.fullscreenElement);
  const goes = () => visible(".progress-line.running").length > 0;

  document.addEventListener(
    "keydown",
    (event) => {
      // Gradio 6.31 shuts a list when the focus leaves it, and a moment later opens it again, because Tab was a key pressed in it.
      if (event.key === "Tab" && event.target.matches?.('[role="combobox"]')) return event.stopPropagation();
      if (event.isComposing || event.altKey || event.shiftKey) return;
      const held = event.ctrlKey || event.metaKey;
      if (event.key === "Enter" && held) {
        event.preventDefault();
        event.stopPropagation();
        if (event.repeat || open() || goes()) return;
        // A field tells the server its text when it changes; leave that a moment before the click reads it.
        setTimeout(() => !open() && !goes() && pressable("button.studio-run")?.click(), 60);
      } else if (event.key === "Escape" && !held) {
        // A key that is held down closes one thing, and does not go on to the run.
        if (event.repeat) return event.stopPropagation();
        if (closes(event)) return;
        if (goes()) pressable("button.studio-stop")?.click();
        else window.studioLeavesTalk?.();
      }
    },
    true
  );
}
