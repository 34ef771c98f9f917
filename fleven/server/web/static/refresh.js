// Fetches the page again every few seconds and replaces its content, so that what is shown is never old without saying so.
// Does nothing while the tab is hidden, while text is selected or a form field has the focus.
"use strict";
(() => {
  const line = document.getElementById("freshness");
  const wait = () => Number(document.getElementById("content").dataset.refreshSeconds) * 1000;
  let failures = 0;
  let timer = 0;

  const busy = () =>
    document.hidden ||
    !(document.getSelection()?.isCollapsed ?? true) ||
    document.activeElement?.matches("input, select, textarea");

  const openDetails = (root) => [...root.querySelectorAll("details")].map((d) => d.open);

  const replace = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = page.getElementById("content");
    const old = document.getElementById("content");
    if (!fresh) return;
    document.getElementById("as-of").textContent = page.getElementById("as-of").textContent;
    const open = openDetails(old);
    [...fresh.querySelectorAll("details")].forEach((d, i) => { d.open = open[i] ?? d.open; });
    const scrolled = [...old.querySelectorAll(".table-frame")].map((frame) => frame.scrollLeft);
    const focus = document.activeElement?.getAttribute?.("href");
    if (fresh.innerHTML !== old.innerHTML) {
      old.replaceChildren(...fresh.childNodes);
      [...old.querySelectorAll(".table-frame")].forEach((frame, i) => { frame.scrollLeft = scrolled[i] ?? 0; });
      if (focus) old.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
    }
    old.dataset.refreshSeconds = fresh.dataset.refreshSeconds;
  };

  const say = (text, bad) => {
    if (line.textContent !== text) line.textContent = text;
    line.classList.toggle("error", bad);
  };

  const turn = async () => {
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(15000) });
        // The session has ended: the login page brings the reader back here.
        if (answer.redirected && new URL(answer.url).pathname === "/login") {
          const here = location.pathname + location.search;
          location.assign(`/login?done=ended&next=${encodeURIComponent(here)}`);
          return;
        }
        if (!answer.ok) throw new Error(String(answer.status));
        replace(await answer.text());
        failures = 0;
        say("live", false);
      } catch {
        failures += 1;
        say("the server does not answer; this may be old", true);
      }
    }
    plan();
  };

  const plan = () => {
    clearTimeout(timer);
    const pause = wait();
    if (!pause) { say("", false); return; }
    timer = setTimeout(turn, Math.min(pause * 2 ** Math.min(failures, 4), 60000));
  };

  document.addEventListener("visibilitychange", () => { if (!document.hidden) { clearTimeout(timer); turn(); } });
  plan();
})();
