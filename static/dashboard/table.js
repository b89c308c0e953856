// The table of requests, as it is in the page: new ones come in on top, those in flight are updated
// in place. The server says how everything looks; here it is put in as text, never as markup.

import { requestAddress, sessionAddress } from "./state.js";
import { clock, elapsed } from "./times.js";

const MOST_IN_FLIGHT = 200;
const MOST_WAITING = 1_000;

export class LiveTable {
  #table;
  #body;
  #template;
  #onChange;
  /** id → { view, element, started } of what is in flight. */
  #running = new Map();
  /** Newest first: what is held back while paused or scrolled away. */
  #waiting = new Map();
  #ended = new Set();
  #held = false;
  #skew = 0;

  constructor(table, onChange) {
    this.#table = table;
    this.#body = table.querySelector("[data-rows]");
    this.#template = table.parentElement.querySelector("template[data-row]");
    this.#onChange = onChange;
    for (const row of this.#body.children) this.#ended.add(row.dataset.id);
  }

  get live() {
    return this.#table.dataset.live === "true" && this.#table.isConnected;
  }

  get size() {
    return this.#body.childElementCount;
  }

  get inFlight() {
    return this.#running.size;
  }

  get unseen() {
    return this.#waiting.size;
  }

  /** How many ms the viewer's clock is ahead of the server's. */
  set skew(milliseconds) {
    this.#skew = milliseconds;
  }

  /** Held, no row is added or moved; those that are shown go on. */
  set held(value) {
    this.#held = value;
    if (!value) this.showWaiting();
  }

  get held() {
    return this.#held;
  }

  /** Takes over what the server knows: `entries` is null where the store is away. */
  snapshot(entries, inFlight) {
    const known = new Set(inFlight.map((view) => view.id));
    for (const [id, { element }] of this.#running) {
      if (known.has(id)) continue;
      element?.remove();
      this.#running.delete(id);
    }
    for (const view of [...(entries ?? [])].reverse()) this.ended(view);
    for (const view of inFlight) this.started(view);
    this.#onChange();
  }

  started(view) {
    if (this.#ended.has(view.id) || this.#running.has(view.id) || this.#running.size >= MOST_IN_FLIGHT) return;
    this.#running.set(view.id, { view, element: null, started: Date.parse(view.time) });
    if (this.live) this.#add(view);
    this.#onChange();
  }

  /** What had begun is none of this page's after all. */
  gone({ id }) {
    this.#running.get(id)?.element?.remove();
    this.#running.delete(id);
    this.#waiting.delete(id);
    this.#onChange();
  }

  ended(view) {
    const running = this.#running.get(view.id);
    this.#running.delete(view.id);
    if (this.#ended.has(view.id)) return;
    this.#ended.add(view.id);
    if (this.#ended.size > 20_000) this.#ended.delete(this.#ended.values().next().value);
    if (running?.element) fill(running.element, view);
    else if (this.#waiting.has(view.id)) this.#waiting.set(view.id, view);
    else if (this.live) this.#add(view);
    this.#onChange();
  }

  /** Moves the clocks of what is in flight. */
  tick(now = Date.now()) {
    for (const { element, started } of this.#running.values()) {
      const place = element?.querySelector('[data-f="duration"]');
      if (place) setText(place, elapsed(now - this.#skew - started));
    }
  }

  showWaiting() {
    const views = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const view of views) this.#place(view);
    this.#trim();
    this.#onChange();
  }

  #add(view) {
    if (this.#held) {
      this.#waiting.set(view.id, view);
      if (this.#waiting.size > MOST_WAITING) this.#waiting.delete(this.#waiting.keys().next().value);
      return;
    }
    this.#place(view);
    this.#trim();
  }

  #place(view) {
    const element = this.#template.content.firstElementChild.cloneNode(true);
    fill(element, view);
    const running = this.#running.get(view.id);
    if (running) running.element = element;
    let next = this.#body.firstElementChild;
    while (next && isNewer(next, view)) next = next.nextElementSibling;
    this.#body.insertBefore(element, next);
    this.tick();
  }

  #trim() {
    const most = Number(this.#table.dataset.most);
    let ended = 0;
    for (const row of [...this.#body.children]) {
      if (row.classList.contains("live")) continue;
      ended += 1;
      // What somebody loaded or reads is not taken away.
      if (ended > most && !row.contains(document.activeElement)) row.remove();
    }
  }
}

/** The order of the store: by the text of the start, in microseconds, then by id. */
function isNewer(row, view) {
  const time = row.querySelector("time")?.dateTime ?? "";
  if (time !== view.time) return time > view.time;
  return row.dataset.id > view.id;
}

function fill(row, view) {
  row.dataset.id = view.id;
  row.className = `row ${view.kind}`;
  for (const place of row.querySelectorAll("[data-f]")) {
    const name = place.dataset.f;
    if (name === "time") {
      place.dateTime = view.time;
      setText(place, clock(view.time));
    } else {
      setText(place, view[name] ?? "");
    }
    place.title = view.titles[name] ?? "";
  }
  for (const cell of row.querySelectorAll("[data-title-of]")) cell.title = view.titles[cell.dataset.titleOf] ?? "";
  for (const svg of row.querySelectorAll("svg.bar")) {
    let x = 0;
    for (const part of svg.querySelectorAll("[data-bar]")) {
      part.setAttribute("x", x);
      part.setAttribute("width", view.bars[part.dataset.bar]);
      x += view.bars[part.dataset.bar];
    }
  }
  const dot = row.querySelector("[data-provider]");
  if (dot) {
    dot.dataset.provider = view.provider;
    dot.title = view.provider;
  }
  const session = row.querySelector("a[data-session]");
  if (session && view.session) session.href = sessionAddress(view.session);
  const link = row.querySelector("a.open");
  if (link) link.href = requestAddress(view.id);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
