// Keeps a page up to date. The server renders everything: a hint says that something changed, the page fetches its own
// address again, and only the parts with another version are replaced. Without this script every page and every form
// works; a reload then shows what is new.
(() => {
  "use strict";
  const QUIET = 300, PAUSE = 1000, FIRST_WAIT = 1000, LONGEST_WAIT = 30000, TICK = 10000;
  const { body } = document;

  // The one place where text becomes a document. Scripts in it do not run.
  const policy = window.trustedTypes?.createPolicy("abide", { createHTML: (text) => text });
  const parse = (text) => new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");

  // ---- Live parts

  const sign = document.getElementById("live");
  let version = body.dataset.version, stream = null, retry = 0, wait = FIRST_WAIT;
  let timer = 0, last = -PAUSE, busy = false, again = false, over = false;

  function show(state, text) {
    if (!sign || sign.dataset.state === state) return;
    sign.hidden = false;
    sign.dataset.state = state;
    sign.lastElementChild.textContent = text;
  }

  // A part that someone works in stays as it is.
  function isInUse(part) {
    const focus = document.activeElement, chosen = getSelection();
    if (focus && part.contains(focus) && focus.matches("input, textarea, select")) return true;
    if (chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode)) return true;
    return [...part.querySelectorAll("input, textarea, select")].some((field) =>
      field.type === "checkbox" ? field.checked !== field.defaultChecked
        : field.tagName === "SELECT" ? ![...field.options].every((option) => option.selected === option.defaultSelected)
          && [...field.options].some((option) => option.defaultSelected)
        : field.type !== "hidden" && field.value !== field.defaultValue);
  }

  function place(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const href = element.getAttribute("href");
    return href && `a[href="${CSS.escape(href)}"]`;
  }

  function replace(part, fresh) {
    const focus = part.contains(document.activeElement) ? place(document.activeElement) : null;
    for (const old of part.querySelectorAll("details[id]")) {
      const now = fresh.querySelector(`#${CSS.escape(old.id)}`);
      if (now) now.open = old.open;
    }
    if (part.matches("details")) fresh.open = part.open;
    const scrolled = [...part.querySelectorAll("[tabindex='0'][id]")].map((old) =>
      [old.id, old.scrollTop + old.clientHeight >= old.scrollHeight - 24 ? Infinity : old.scrollTop]);
    part.replaceWith(document.adoptNode(fresh));
    for (const [id, top] of scrolled) {
      const now = document.getElementById(id);
      if (now) now.scrollTop = top === Infinity ? now.scrollHeight : top;
    }
    if (focus) (fresh.querySelector(focus) || fresh).focus({ preventScroll: true });
  }

  function take(page) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const fresh = page.querySelector(`[data-live="${CSS.escape(part.dataset.live)}"]`);
      if (!fresh) { part.classList.add("stale"); continue; }
      if (fresh.dataset.rev === part.dataset.rev) { part.classList.remove("stale"); continue; }
      if (isInUse(part)) part.classList.add("stale"); else replace(part, fresh);
    }
    // A part that is new, such as a lane of a new environment, goes to where the server has it.
    for (const fresh of page.querySelectorAll("[data-live]")) {
      if (document.querySelector(`[data-live="${CSS.escape(fresh.dataset.live)}"]`)) continue;
      const before = fresh.previousElementSibling?.dataset.live;
      const anchor = before && document.querySelector(`[data-live="${CSS.escape(before)}"]`);
      if (anchor) anchor.after(document.adoptNode(fresh));
    }
    document.title = page.title;
    const icon = document.querySelector("link[rel=icon]"), now = page.querySelector("link[rel=icon]");
    if (icon && now && icon.getAttribute("href") !== now.getAttribute("href")) icon.setAttribute("href", now.getAttribute("href"));
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const headers = { accept: "text/html" };
      if (version) headers["if-none-match"] = `W/"${version}"`;
      const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "manual" });
      last = performance.now();
      if (answer.type === "opaqueredirect") end();
      else if (answer.ok) {
        const page = parse(await answer.text());
        take(page);
        version = page.body.dataset.version;
      }
    } catch { show("cut", "Not live"); } finally {
      busy = false;
      if (again) { again = false; soon(); }
    }
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.max(QUIET, PAUSE - (performance.now() - last)));
  }

  // The session has ended here or elsewhere. What is on the page is old from now on.
  function end() {
    over = true;
    close();
    show("over", "Signed out: reload");
  }

  function close() {
    clearTimeout(retry);
    stream?.close();
    stream = null;
  }

  function open() {
    if (stream || over || document.hidden || !body.dataset.hints || !window.EventSource) return;
    stream = new EventSource(body.dataset.hints);
    stream.onopen = () => { wait = FIRST_WAIT; show("live", "Live"); soon(); };
    stream.addEventListener("changed", soon);
    stream.onerror = () => {
      show("cut", "Not live");
      // After a cut it comes back by itself, after an HTTP error it does not.
      if (stream.readyState !== EventSource.CLOSED) return;
      close();
      refresh();
      retry = setTimeout(open, wait);
      wait = Math.min(wait * 2, LONGEST_WAIT);
    };
  }

  // A hidden tab holds no connection: over HTTP/1.1 browsers have six for one origin.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { close(); if (!over) show("paused", "Paused"); } else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();

  // ---- Times: the same words as on the server

  const length = (s) => s < 90 ? `${Math.floor(s)} s` : s < 5400 ? `${Math.round(s / 60)} min`
    : s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;

  function words(time) {
    const passed = (Date.now() - Date.parse(time.dateTime)) / 1000;
    switch (time.dataset.time) {
      case "span": return length(Math.max(passed, 0));
      case "ahead": return passed >= 0 ? "now" : `in ${length(-passed)}`;
      // An older moment is written with its time of day, which does not change.
      case "ago": return passed < 1 ? "now" : passed < 5400 ? `${length(passed)} ago` : null;
      default: return null;
    }
  }

  setInterval(() => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[data-time]")) {
      const text = words(time);
      if (text && time.textContent !== text) time.textContent = text;
    }
  }, TICK);

  // ---- Login by a one-time link: the code is in the fragment, which no server and no log sees

  function redeem() {
    const code = /^#code=([\w-]{22})$/.exec(location.hash)?.[1];
    const token = document.getElementById("token");
    if (!code || !token) return;
    history.replaceState(null, "", location.pathname + location.search);
    token.value = code;
    token.form.requestSubmit();
  }
  // A link that is opened while the login page is shown only changes the fragment.
  addEventListener("hashchange", redeem);
  redeem();

  // ---- Keys: none of them changes anything

  const rows = () => [...document.querySelectorAll(".trouble li a, .env h3 a, .list li > a, tbody tr a")]
    .filter((link) => link.getClientRects().length);
  let leader = 0;
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || body.dataset.keys === "off") return;
    if (event.timeStamp - leader < 1000) {
      leader = 0;
      document.querySelector(`.nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
      return;
    }
    if (event.key === "g") leader = event.timeStamp;
    else if (event.key === "/") {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); }
    } else if (event.key === "j" || event.key === "k") {
      const all = rows(), at = all.indexOf(document.activeElement);
      all[at < 0 ? 0 : Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), all.length - 1)]?.focus();
    }
  });
})();
