() => {
  // Addresses: the chosen tab stands in the address, Back goes to the one before, the settings of a link are filled in once,
  // a click on “Copy link” copies, and a PNG that is dropped or pasted anywhere finds its tab and fills in its settings (links.py).
  const OWN = ["view", "present", "logs"]; // names that are the page's own, beside those with an underscore
  const papers = () =>
    (window.gradio_config?.components ?? [])
      .map((one) => one.props?.elem_id ?? "")
      .filter((id) => id.startsWith("paper-"))
      .map((id) => id.slice(6));
  const asked = () => new URLSearchParams(location.search);
  const own = (name) => OWN.includes(name) || name.startsWith("_");
  const hasSettings = () => [...asked().keys()].some((name) => name !== "tab" && !own(name));
  const address = (slug) => {
    const kept = new URLSearchParams({ tab: slug });
    for (const [name, value] of asked()) if (own(name)) kept.set(name, value);
    return `${location.pathname}?${kept}`;
  };
  const button = (slug) => document.getElementById(`paper-${slug}-button`);
  const show = (slug) => button(slug)?.click();
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const hold = (on) => {
    for (const slug of papers()) on ? window.studioHold(`link-${slug}`, `paper-${slug}`) : window.studioRelease(`link-${slug}`);
  };

  let ready = false; // Gradio tells of the tab that it shows first, too
  window.studioTab = (slug) => {
    if (!ready || slug === (asked().get("tab") ?? papers()[0])) return;
    // A talk chooses tabs by itself: Back leads to where it began.
    asked().has("present") ? history.replaceState(null, "", address(slug)) : history.pushState(null, "", address(slug));
  };
  window.studioOpen = async () => {
    const slug = asked().get("tab");
    // After a reload the page shows what it showed: the link has been taken.
    const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
    if (papers().includes(slug)) {
      // While Gradio still puts the page together it may not hear a click.
      for (let tries = 0; tries < 50 && button(slug)?.getAttribute("aria-selected") !== "true"; tries += 1) {
        show(slug);
        await pause(100);
      }
    }
    ready = true;
    const known = !slug || papers().includes(slug);
    if (again || (known && !hasSettings())) return;
    hold(true);
    (document.getElementById(`studio-link-${slug ?? papers()[0]}`) ?? document.getElementById("studio-link")).click();
  };
  window.studioOpened = () => {
    hold(false);
    const slug = asked().get("tab");
    const known = papers().includes(slug) ? slug : papers()[0];
    if (hasSettings() || slug !== known) history.replaceState(null, "", address(known));
  };
  if (window.studioLoaded) window.studioOpen();
  window.addEventListener("popstate", () => show(asked().get("tab") ?? papers()[0]));

  // --- copying ---

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = document.createElement("textarea"); // a page that is not served over https has no clipboard
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
  }
  document.addEventListener("click", async (event) => {
    const link = event.target.closest?.("a.copy-link");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    await copy(link.href);
    const said = link.parentElement.querySelector(".copied");
    said.textContent = "Copied.";
    setTimeout(() => (said.textContent = ""), 3000);
  });

  // --- the call that is shown under “Use it from Python” follows the page while it is seen ---

  const renewing = new Map();
  window.studioUse = (slug) => {
    if (!document.getElementById(`use-code-${slug}`)?.getClientRects().length) return;
    clearTimeout(renewing.get(slug));
    renewing.set(slug, setTimeout(() => document.getElementById(`studio-use-${slug}`)?.click(), 400));
  };

  // --- files that are dropped or pasted outside of a zone of their own ---

  const zone = (target) => {
    const block = target?.closest?.(".block");
    return block?.querySelector("input[type=file]") && !block.matches(".restore");
  };
  const carries = (data) => [...(data?.types ?? [])].includes("Files");
  const send = async (file, zone) => {
    const place = () => document.querySelector(`#${zone} input[type=file]`);
    // The zone takes a file again once the one before has been read.
    for (let tries = 0; tries < 100 && !place(); tries += 1) await pause(100);
    const input = place();
    if (!file || !input) return;
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  let last;
  const take = (file) => send((last = file), "studio-drop");
  window.studioDropped = (slug) => {
    if (!slug) return;
    show(slug);
    hold(true);
    setTimeout(() => hold(false), 20000); // an upload that is refused ends without a word here
    send(last, `studio-drop-${slug}`);
  };
  const over = (event) => carries(event.dataTransfer) && !zone(event.target) && event.preventDefault();
  document.addEventListener("dragenter", over, true);
  document.addEventListener("dragover", over, true);
  document.addEventListener(
    "drop",
    (event) => {
      if (!carries(event.dataTransfer) || zone(event.target)) return;
      event.preventDefault(); // a browser would show the file in place of the page
      event.stopPropagation();
      take(event.dataTransfer.files[0]);
    },
    true
  );
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file && !zone(event.target)) take(file);
  });
}
