// Keeps a page up to date. The server renders everything: a hint says that something changed, the page fetches its own
// address again, and only the parts with another version are replaced. Without this script every page and every form
// works; a reload then shows what is new.
(() => {
  "use strict";
  const QUIET = 300, PAUSE = 1000, FIRST_WAIT = 1000, LONGEST_WAIT = 30000, TICK = 10000, BLOCK = 500;
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
      // A failed request does not end the stream, so only a later one shows that all is well.
      if (!over && stream?.readyState === EventSource.OPEN) show("live", "Live");
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
    if (!over) dispatchEvent(new Event("abide-signed-out"));
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

  // ---- Logs: new lines come as items, and the number of items on the page stays within a bound

  function followed(log) {
    const part = document.getElementById("log-part");
    const lines = log.firstElementChild, most = Number(log.dataset.most);
    const toggle = document.getElementById("follow"), state = document.getElementById("log-state");
    const [text, jump] = state.children;
    let at = log.dataset.at, held = [], came = 0, on = true, isOver = false, isCut = false, isOut = false, isShort = false;
    let count = lines.querySelectorAll("li").length;
    let feed = null, again = 0, pause = FIRST_WAIT;
    // The box is filled from its end, so zero is the end.
    const isAtEnd = () => Math.abs(log.scrollTop) < 24;
    const isRead = () => { const chosen = getSelection(); return chosen && !chosen.isCollapsed && log.contains(chosen.anchorNode); };

    function tell() {
      const still = !on ? "It is paused" : !isAtEnd() ? "You scrolled up, so it stands still" : came ? "You select text, so it stands still" : "";
      const parts = [isOut && "You are signed out: reload the page to sign in.", isShort && "The oldest lines are no longer shown.", isCut && "The connection is cut, and is tried again.", isOver && "It has ended.",
        still && (came ? `${still}; ${came} ${came === 1 ? "line" : "lines"} came since.` : `${still}.`)].filter(Boolean);
      const words = parts.join(" ");
      if (text.textContent !== words) text.textContent = words;
      state.hidden = !words;
      jump.hidden = !still;
    }

    // Blocks that are out of view are not laid out. The oldest block goes as a whole.
    function append(items) {
      // The sentence of the server is about the lines that the page had.
      if (part && items.length) part.textContent = count && part.dataset.had !== "more" ? `${part.textContent} Newer lines follow.` : count ? part.textContent : "";
      if (part && items.length) part.dataset.had = "more";
      for (const item of items) {
        if (!lines.lastElementChild || lines.lastElementChild.childElementCount >= BLOCK) lines.append(document.createElement("ol"));
        lines.lastElementChild.append(item);
      }
      count += items.length;
      while (count > most && lines.childElementCount > 1) {
        count -= lines.firstElementChild.childElementCount;
        lines.firstElementChild.remove();
        isShort = true;
      }
    }

    function release() { append(held); held = []; came = 0; }

    function take(event) {
      at = event.lastEventId || at;
      const items = [...parse(`<ol>${event.data}</ol>`).querySelectorAll("li")].map((item) => document.adoptNode(item));
      if (on && isAtEnd() && !isRead()) { release(); append(items); log.scrollTop = 0; } else {
        came += items.length;
        held.push(...items);
        if (held.length > most) held.splice(0, held.length - most);
      }
      tell();
    }

    function set(value) {
      on = value;
      toggle.setAttribute("aria-pressed", String(on));
      if (on) { release(); log.scrollTop = 0; }
      tell();
    }

    function stop() { clearTimeout(again); feed?.close(); feed = null; }

    function out() { isOut = true; isCut = false; stop(); tell(); }

    // An EventSource does not reveal why it was refused.
    async function ask(url) {
      const question = new AbortController();
      try {
        const answer = await fetch(url, { signal: question.signal, cache: "no-store" });
        if (answer.status === 401) { end(); out(); }
      } catch { /* It is tried again anyway. */ } finally { question.abort(); }
    }

    function start() {
      if (feed || isOver || isOut || document.hidden) return;
      feed = new EventSource(`${log.dataset.follow}&after=${encodeURIComponent(at)}`);
      feed.onopen = () => { pause = FIRST_WAIT; isCut = false; tell(); };
      feed.addEventListener("lines", take);
      feed.addEventListener("end", (event) => { isOver = true; stop(); take(event); });
      feed.onerror = () => {
        isCut = true;
        tell();
        if (feed?.readyState !== EventSource.CLOSED) return;
        const { url } = feed;
        stop();
        again = setTimeout(start, pause);
        pause = Math.min(pause * 2, LONGEST_WAIT);
        ask(url);
      };
    }

    addEventListener("abide-signed-out", out);
    toggle.hidden = false;
    toggle.addEventListener("click", () => set(!on));
    jump.addEventListener("click", () => { set(true); log.focus({ preventScroll: true }); });
    log.addEventListener("scroll", () => { if (on && isAtEnd()) release(); tell(); }, { passive: true });
    document.addEventListener("visibilitychange", () => document.hidden ? stop() : start());
    addEventListener("pagehide", stop);
    addEventListener("pageshow", start);
    start();
  }
  const log = document.querySelector(".log[data-follow]");
  if (log && window.EventSource) followed(log);

  // A link to a line that is not among the shown ones asks once for the part that ends with it, or for the longest part.
  function seek() {
    const line = location.hash.slice(1), query = new URLSearchParams(location.search);
    if (!document.querySelector(".log.tall") || !/^L\d/.test(line) || document.getElementById(line)) return;
    const moment = /^L\d{4}-/.test(line) && Date.parse(`${line.slice(1, 20)}Z`);
    if (query.has("before") || query.has("to") || query.has("tail")) return;
    if (moment) query.set("before", `${new Date(moment + 1000).toISOString().slice(0, 19)}.000000000Z`);
    else query.set("to", Number(line.slice(1)) + 100);
    query.set("tail", "10000");
    query.delete("q");
    location.replace(`?${query}#${line}`);
  }
  seek();

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

  const overlay = document.getElementById("keys"), use = document.getElementById("keys-on");
  // A browser that keeps nothing for this site uses the keys.
  const keys = (value) => { try { if (value) localStorage.setItem("abide-keys", value); return localStorage.getItem("abide-keys"); } catch { return value; } };
  if (overlay) {
    const opener = document.getElementById("keys-open");
    opener.hidden = false;
    opener.addEventListener("click", () => overlay.showModal());
    document.getElementById("keys-close").addEventListener("click", () => overlay.close());
    use.checked = keys() !== "off";
    use.addEventListener("change", () => keys(use.checked ? "on" : "off"));
  }
  const rows = () => [...document.querySelectorAll(".trouble li a, .env h3 a, .list li > a, tbody tr a")]
    .filter((link) => link.getClientRects().length);
  let leader = 0;
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || overlay?.open) return;
    if (event.key === "?" && overlay) { event.preventDefault(); overlay.showModal(); return; }
    if (keys() === "off") return;
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
      // In a log, the rows are its lines, from the newest one on.
      const log = document.activeElement.closest(".log.tall");
      const all = log ? [...log.querySelectorAll("li > a")] : rows(), at = all.indexOf(document.activeElement);
      all[at < 0 ? (log ? all.length - 1 : 0) : Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), all.length - 1)]?.focus();
    }
  });
})();
