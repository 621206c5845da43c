() => {
  // The papers as a talk: slides that the server makes (present.py), one at a time, and for the live ones the paper's own tab.
  // Arrow keys, or the buttons below; by itself as a tour, until a key is pressed or the page is touched. `?present=3` is its third slide.
  const STEPS = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 };
  const FIELDS = "input, textarea, select, [contenteditable], canvas, [role=slider], [role=listbox], [role=radiogroup], [role=tab], .scroll";
  const SLIDERS = "[role=slider], input[type=range]"; // of which Page keys are, too
  const TICK_MS = 250;
  const root = () => (window.gradio_config?.root || "").replace(/\/+$/, "");
  const container = () => document.querySelector(".gradio-container");
  const seen = (selector) => [...document.querySelectorAll(selector)].some((node) => node.getClientRects().length > 0);
  let stage = null; // what is laid over the page
  let slides = [];
  let at = -1; // no slide: the page is as always
  let tour = 0;
  let shown = 0; // milliseconds for which a tour has shown this slide

  const part = (selector) => stage.querySelector(selector);
  const noted = (slide) => {
    const address = new URL(location);
    if (slide < 0) address.searchParams.delete("present");
    else address.searchParams.set("present", slide + 1);
    history.replaceState(history.state, "", address);
  };

  async function made() {
    const answer = await fetch(`${root()}/studio/slides`);
    if (!answer.ok) return false;
    stage = document.createElement("div");
    stage.id = "studio-talk";
    stage.innerHTML = `<div class="slides">${await answer.text()}</div>
      <div class="talk-bar" role="toolbar" aria-label="Presentation"><i></i>
      <button type="button" data-go="-1" aria-label="Back">←</button>
      <button type="button" data-tour>Play</button><span role="status"></span>
      <button type="button" data-leave>Leave</button>
      <button type="button" data-go="1" aria-label="Next">→</button></div>`;
    container().prepend(stage);
    slides = [...stage.querySelectorAll("[data-slide]")];
    return true;
  }

  async function present(slide) {
    if (!stage && !(await made())) return;
    document.getElementById("studio-map")?.hidePopover?.();
    go(Math.min(Math.max(slide || 0, 0), slides.length - 1));
  }

  function go(slide) {
    if (slide < 0 || slide >= slides.length) return;
    at = slide;
    shown = 0;
    const { slide: kind, paper } = slides[at].dataset;
    slides.forEach((one, place) => (one.hidden = place !== at));
    container().dataset.talk = kind;
    part("[role=status]").textContent = `${at + 1} of ${slides.length}`;
    part("[data-go='-1']").disabled = at === 0;
    part("[data-go='1']").disabled = at === slides.length - 1;
    if (kind === "live") choose(paper);
    noted(at);
    scrollTo(0, 0);
    slides[at].querySelector("h2, p").focus({ preventScroll: true });
    bar();
  }

  // The tab's button may not be there yet when the page opens with the talk.
  function choose(paper, tries = 40) {
    const button = document.getElementById(`paper-${paper}-button`);
    if (button) button.click();
    else if (tries) setTimeout(choose, 500, paper, tries - 1);
  }

  function leave() {
    if (at < 0) return false;
    play(false);
    at = -1;
    delete container().dataset.talk;
    noted(at);
    document.querySelector("[data-present]")?.focus();
    return true;
  }

  function play(on) {
    clearInterval(tour);
    tour = on ? setInterval(turn, TICK_MS) : 0;
    shown = 0;
    if (on && at === slides.length - 1) go(0);
    part("[data-tour]").textContent = on ? "Pause" : "Play";
    bar();
  }

  function turn() {
    const live = slides[at].dataset.slide === "live";
    if (document.hidden || (live && seen(".progress-line.running"))) return; // a run is waited for
    shown += TICK_MS;
    bar();
    if (shown < 1000 * slides[at].dataset.seconds) return;
    go(at + 1);
    if (at === slides.length - 1) play(false);
  }

  const bar = () => (part("i").style.width = `${tour ? Math.min(100, shown / 10 / slides[at].dataset.seconds) : 0}%`);

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-present], [data-go], [data-tour], [data-leave], button[data-paper]");
    if (!button) return;
    const { go: step, tour: tours, leave: leaves, paper } = button.dataset;
    if (paper) {
      document.getElementById("studio-map")?.hidePopover?.();
      const live = slides.findIndex((one) => one.dataset.slide === "live" && one.dataset.paper === paper);
      if (at >= 0) go(live);
      else choose(paper);
    } else if (step) go(at + Number(step));
    else if (tours !== undefined) play(!tour);
    else if (leaves !== undefined) leave();
    else present(0);
  });
  document.addEventListener("pointerdown", (event) => tour && !event.target.closest?.("[data-tour]") && play(false), true);
  document.addEventListener(
    "keydown",
    (event) => {
      if (at < 0 || event.isComposing) return;
      const presses = ["Enter", " "].includes(event.key) && event.target.closest?.("[data-tour]"); // which pauses by itself
      if (tour && !presses) play(false);
      const step = STEPS[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      const own = event.key.startsWith("Arrow") ? FIELDS : SLIDERS;
      if (event.target.closest?.(own)) return; // the field's own
      event.preventDefault();
      go(at + step);
    },
    true
  );
  window.studioLeavesTalk = leave; // keys.js: Esc, when nothing else is to be closed or stopped

  const asked = new URLSearchParams(location.search).get("present");
  if (asked !== null) present(Math.floor(Number(asked)) - 1);
}
