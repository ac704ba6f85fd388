// What htmx does not do: clocks that tick, the clipboard, a few keys, and a stream that a hidden
// tab gives back, since a browser opens no more than six to one server.
"use strict";

(() => {
  const body = document.body;
  const started = performance.now();
  const simulatedNow = () =>
    Number(body.dataset.clock) + (performance.now() - started) * Number(body.dataset.speed);

  const lengthOf = (seconds) => {
    const two = (number) => String(number).padStart(2, "0");
    const whole = Math.max(0, Math.floor(seconds));
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    if (whole < 60) return `${whole} s`;
    if (hours >= 24) return `${Math.floor(hours / 24)} d`;
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  };

  const tick = () => {
    const now = simulatedNow();
    for (const element of document.querySelectorAll("[data-since]")) {
      element.textContent = lengthOf((now - Number(element.dataset.since)) / 1000);
    }
    // The platform's times are Beijing's, wherever the reader is.
    document.getElementById("clock").textContent =
      new Date(now + 8 * 3600 * 1000).toISOString().slice(11, 19);
  };
  if (Number(body.dataset.speed) > 0) setInterval(tick, 500);

  // The stream.
  const sources = new Set();
  htmx.createEventSource = (url) => {
    const source = new EventSource(url);
    sources.add(source);
    return source;
  };
  const connect = () => {
    const live = document.getElementById("live");
    for (const element of [live, ...live.querySelectorAll("[sse-swap]")]) {
      htmx.trigger(element, "htmx:afterProcessNode");
    }
  };
  const disconnect = () => {
    for (const source of sources) source.close();
    sources.clear();
  };
  document.addEventListener("visibilitychange", () => {
    disconnect();
    if (!document.hidden) connect();
  });
  const offline = (is) => () => { document.getElementById("offline").hidden = !is; };
  body.addEventListener("htmx:sseError", offline(true));
  body.addEventListener("htmx:sseOpen", offline(false));

  // What the server said no to.
  body.addEventListener("htmx:beforeRequest", () => { document.getElementById("said").hidden = true; });
  body.addEventListener("htmx:responseError", (event) => {
    const said = document.getElementById("said");
    try {
      said.textContent = JSON.parse(event.detail.xhr.responseText).error;
    } catch {
      said.textContent = event.detail.xhr.statusText;
    }
    said.hidden = false;
  });

  // What it said yes to is JSON. htmx would read it as a part of the page, even for hx-swap="none",
  // and take for elements what stands in it: whatever is in an outCallId, or in a service's reply.
  body.addEventListener("htmx:beforeSwap", (event) => {
    const kind = event.detail.xhr.getResponseHeader("Content-Type") ?? "";
    if (!kind.startsWith("text/html")) event.detail.shouldSwap = false;
  });

  // Switches: before htmx, which hears of the change in the bubbling phase.
  document.addEventListener("change", (event) => {
    const form = event.target.form;
    if (event.target.dataset.flag) {
      form.elements[event.target.dataset.flag].value = String(event.target.checked);
    } else if ("switch" in event.target.dataset) {
      form.elements.probability.value = event.target.checked ? "1" : "0";
    }
  }, true);

  // What a button did takes the button away. Whoever works by keys goes on from where it was.
  let acted = false;
  body.addEventListener("htmx:sseBeforeMessage", () => {
    acted ||= document.activeElement?.closest(".acts") != null;
  });
  body.addEventListener("htmx:sseMessage", () => {
    if (acted && document.activeElement === body) document.querySelector(".acts")?.focus();
    acted = false;
  });

  // The clipboard.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-of]");
    if (!button) return;
    const { copy, copyOf, copied } = button.dataset;
    await navigator.clipboard.writeText(copy ?? document.getElementById(copyOf).textContent);
    const label = button.textContent;
    button.textContent = copied;
    setTimeout(() => { button.textContent = label; }, 1500);
  });

  // Keys: / searches, j and k go down and up the list.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) return;
    const step = { j: 1, k: -1 }[event.key];
    if (event.key === "/") {
      document.getElementById("search")?.focus();
      event.preventDefault();
    } else if (step) {
      const rows = [...document.querySelectorAll("a.row")];
      const at = rows.findIndex((row) => row === document.activeElement || row.ariaCurrent === "true");
      rows[Math.min(Math.max(at + step, 0), rows.length - 1)]?.focus();
    }
  });
})();
