() => {
  // A tab whose live switch is on draws while its settings change: live.py. Where it is off, the server is asked nothing.
  const EVERY_MS = 200; // a slider that moves tells of itself more often than anybody could look
  let timer = null;
  window.studioFollow = (paper) => {
    const box = document.querySelector(`#${paper} .live-switch input[type="checkbox"]`);
    if (timer || !box?.checked) return;
    timer = setTimeout(() => {
      timer = null;
      if (box.checked) document.querySelector(`#${paper} button.live-draw`)?.click();
    }, EVERY_MS);
  };
  const follow = (event) => {
    const paper = event.target.closest?.(".studio-controls")?.closest('[id^="paper-"]');
    if (paper) window.studioFollow(paper.id);
  };
  for (const kind of ["input", "change"]) document.addEventListener(kind, follow, true);
}
