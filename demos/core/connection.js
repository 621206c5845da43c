() => {
  // The connection may go away for a while: a train in a tunnel, a laptop that sleeps, a server that starts again. Gradio would
  // reload the page, and it would do nothing until then. Here requests wait and go out when it is back, a run's stream is
  // taken up again, and what the server noted meanwhile is asked for. Nobody's page is reloaded.
  const API = "/gradio_api/";
  const PATIENCE_MS = 12 * 3600e3;
  const AGAIN_MS = 1000;
  const STATUS_MS = 4000;
  const ANSWER_MS = 10000; // on a line that is cut without a word an answer never comes
  const LOST = "The connection to the studio is lost. Your work is safe there; this page goes on as soon as it is back.";
  const GONE = "The connection was lost while this ran, and it ended there. What came of it is shown; Run starts anew.";
  const BROKEN = [502, 504]; // of a proxy in front of the studio
  const native = window.fetch.bind(window);
  const root = () => (window.gradio_config?.root || "").replace(/\/+$/, "");
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const element = (id) => document.getElementById(id);
  const token = () => {
    try {
      return sessionStorage.getItem("studio-page") || "";
    } catch {
      return "";
    }
  };

  const statusRequest = (session = "") =>
    new Request(`${root()}/studio/status?page=${token()}&session=${session}`, {
      cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS), // its error is no AbortError
    });

  // Only a page that closes says so: one whose connection breaks, or that is loaded again, may come back to its run.
  let reloads = false;
  window.navigation?.addEventListener("navigate", (event) => (reloads = event.navigationType === "reload"));
  window.addEventListener("pagehide", () => {
    if (!reloads) navigator.sendBeacon(`${root()}/goodbye`, window.__gradio_session_hash__ ?? "");
  });

  // --- a form is kept on the server while it is filled in, a moment after the last change ---

  let saving = 0;
  const changed = new Set();
  const save = () => {
    saving = 0;
    for (const part of changed) element(part)?.click();
    changed.clear();
  };
  const saveSoon = (event) => {
    if (!event.isTrusted || (event.type === "pointerdown" && !event.target.closest('[role="option"]'))) return;
    const part = event.target.closest('[class*="studio-part-"]')?.className.match(/studio-part-(\d+)/)[1];
    if (!part) return;
    changed.add(`studio-save-${part}`);
    clearTimeout(saving);
    saving = setTimeout(save, 400);
  };
  for (const kind of ["input", "change", "pointerdown"]) document.addEventListener(kind, saveSoon, true);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") return void status();
    if (!saving) return;
    clearTimeout(saving);
    save();
  });

  // --- what is said while the connection is away ---

  let lost = false;
  function connected(now) {
    if (now === !lost) return;
    lost = !now;
    let notice = element("studio-lost");
    if (lost && !notice) {
      notice = document.createElement("div");
      notice.id = "studio-lost";
      notice.setAttribute("role", "status");
      document.querySelector(".gradio-container").append(notice);
    }
    if (notice) notice.textContent = lost ? LOST : "";
    if (lost) return;
    setTimeout(status);
    for (const picture of document.images) if (picture.complete && !picture.naturalWidth) picture.src = picture.src;
  }

  // A part of the page that was to come meanwhile never will: only loading the page again brings it, with all that it showed.
  let lacking = false;
  window.addEventListener("vite:preloadError", () => (lacking ||= lost));

  // --- requests wait ---

  async function patient(make) {
    const until = Date.now() + PATIENCE_MS;
    for (;;) {
      try {
        const answer = await native(make());
        if (!BROKEN.includes(answer.status)) {
          connected(true);
          return answer;
        }
      } catch (error) {
        if (error.name === "AbortError" || Date.now() > until) throw error;
      }
      connected(false);
      await pause(AGAIN_MS);
    }
  }

  // --- a run's stream is taken up again ---

  const runs = new Set(); // events that Gradio waits for
  const frame = (message) => `data: ${JSON.stringify(message)}\n\n`;
  const ended = (id) => ({
    msg: "process_completed", event_id: id, success: false, title: "Connection lost",
    output: { error: GONE, title: "Connection lost", visible: true, duration: 10 },
  });

  const streams = async (session) => {
    const answer = await patient(() => statusRequest(session));
    return answer.ok && (await answer.json()).stream;
  };

  // What a stream says next. One that says nothing may have no sender any more, and then it is at its end.
  async function heard(reader, session) {
    const next = reader.read();
    for (let over = false; ; over = !(await streams(session))) {
      const said = await Promise.race([next, pause(STATUS_MS)]);
      if (said) return said;
      if (over) throw new TypeError("nothing more will come");
    }
  }

  async function followed(request, signal) {
    const session = new URL(request.url).searchParams.get("session_hash");
    const first = await patient(() => request.clone());
    if (!first.ok || !first.body) return first;
    const text = new TextEncoder();
    const stream = new ReadableStream({
      async start(out) {
        let answer = first;
        let again = false; // a stream that was taken up: what changed before is not known, so only ends are passed on
        for (;;) {
          const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
          let buffer = "";
          try {
            for (;;) {
              const { done, value } = await heard(reader, session);
              if (done) break;
              buffer += value;
              for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
                const part = buffer.slice(0, end);
                const message = JSON.parse(part.replace(/^data:\s*/, "") || "{}");
                if (message.session_not_found || (message.msg === "unexpected_error" && !message.event_id)) {
                  throw new TypeError("the server knows nothing of this run");
                }
                window.studioTitle?.(message.output?.error ?? message.log, message.output?.title ?? message.title);
                if (message.msg === "process_completed") {
                  runs.delete(message.event_id);
                  if (again) {
                    setTimeout(giveBack, 500); // with what was missed
                    owed = 2; // and once more, should that have met an answer that was on its way from before the end
                  }
                }
                if (again && ["process_generating", "process_streaming"].includes(message.msg)) {
                  refresh();
                  continue;
                }
                out.enqueue(text.encode(`${part}\n\n`));
                if (message.msg === "close_stream") return void out.close();
              }
            }
          } catch (error) {
            if (signal?.aborted || error.name === "AbortError") return void out.error(error);
          }
          if (signal?.aborted) return void out.close();
          connected(false);
          reader.cancel().catch(() => {});
          if (!(await streams(session))) break; // the run has ended there
          answer = await patient(() => new Request(request.url, { headers: request.headers }));
          if (!answer.ok || !answer.body) break;
          again = true;
        }
        for (const id of runs) out.enqueue(text.encode(frame(ended(id))));
        runs.clear();
        out.enqueue(text.encode(frame({ msg: "close_stream" })));
        out.close();
        setTimeout(giveBack, 300);
      },
    });
    return new Response(stream, { status: 200, headers: first.headers });
  }

  window.fetch = (input, init) => {
    const address = new URL(input instanceof Request ? input.url : input, location.href);
    const place = address.pathname.split(API)[1];
    if (address.origin !== location.origin || place === undefined) return native(input, init);
    const make = () => (input instanceof Request ? input.clone() : new Request(address, init));
    if (place.startsWith("queue/data")) return followed(make(), init?.signal || (input instanceof Request && input.signal));
    if (place.startsWith("queue/join")) {
      return patient(make).then((answer) => {
        answer.clone().json().then((said) => said.event_id && runs.add(said.event_id), () => {});
        return answer;
      });
    }
    return place.startsWith("run/") ? patient(make) : native(input, init);
  };

  // --- the state of the studio, and of a run that this page began before it was loaded again ---

  let layout = "";
  let waiting = false;
  let owed = 0; // times that the end of a run has still to be asked for
  let asking = false;
  const giveBack = () => element("studio-give-back")?.click();
  let last = 0;
  function refresh() {
    if (Date.now() - last < 2000) return;
    last = Date.now();
    giveBack();
  }

  async function status() {
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    try {
      const answer = await native(statusRequest());
      if (!answer.ok) throw new TypeError("no status");
      const now = await answer.json();
      connected(true);
      const line = document.querySelector(".status-line");
      if (line && line.outerHTML !== now.line) line.outerHTML = now.line;
      if ((layout && layout !== now.layout) || (lacking && !runs.size)) location.reload();
      layout = now.layout;
      if (waiting && !runs.size) now.running ? refresh() : giveBack();
      waiting = now.running && !runs.size;
      if (owed && !now.running) {
        owed -= 1;
        giveBack();
      }
    } catch {
      connected(false);
    }
    asking = false;
  }
  setInterval(status, STATUS_MS);
  window.addEventListener("online", status);
  window.addEventListener("offline", () => connected(false));
  setTimeout(status, 500);
}
