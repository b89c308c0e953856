// The table of requests: newest start on top, updated in place when they end.
//
// Everything in a row comes from the wire (model names, user agents, error messages): it is put in
// as text, never as markup.

import { clock, cost, count, duration, elapsed, number, UNKNOWN, utc, words } from "./format.js";
import { failed } from "./totals.js";

const MOST_ENDED = 100;
const MOST_IN_FLIGHT = 200;
const MOST_KEPT = MOST_ENDED + MOST_IN_FLIGHT;

export class FeedTable {
  #body;
  #template;
  /** id → { row, inFlight, element, dirty }, in no order. */
  #entries = new Map();
  #paused = false;
  #skew = 0;

  constructor(body, template) {
    this.#body = body;
    this.#template = template;
  }

  /** How many ms the viewer's clock is ahead of the server's. */
  set skew(milliseconds) {
    this.#skew = milliseconds;
  }

  get size() {
    return this.#entries.size;
  }

  get inFlight() {
    return [...this.#entries.values()].filter((entry) => entry.inFlight).map((entry) => entry.row);
  }

  /** How many rows wait to be shown while paused. */
  get unseen() {
    return [...this.#entries.values()].filter((entry) => entry.element === null).length;
  }

  get paused() {
    return this.#paused;
  }

  /** While paused, rows that are shown are still updated; none is added, moved or removed. */
  set paused(value) {
    this.#paused = value;
  }

  started(row) {
    // A start heard after its end, as in a snapshot that was ahead of the events.
    if (this.#entries.get(row.request_id)?.inFlight === false) return;
    this.#put(row, true);
  }

  ended(row) {
    this.#put(row, false);
  }

  /** Take over what the server knows: `entries` is null where the store is away. */
  reset(entries, inFlight) {
    const known = new Set(inFlight.map((row) => row.request_id));
    for (const [id, entry] of this.#entries) {
      if (entry.inFlight && !known.has(id)) this.#remove(id, entry);
    }
    for (const row of entries ?? []) this.ended(row);
    for (const row of inFlight) this.started(row);
  }

  render() {
    const ordered = this.#trimmed();
    let next = this.#body.firstElementChild;
    for (const entry of ordered) {
      if (entry.element === null && this.#paused) continue;
      entry.element ??= this.#template.content.firstElementChild.cloneNode(true);
      if (entry.dirty) fill(entry);
      entry.dirty = false;
      if (this.#paused) continue;
      if (entry.element === next) next = next.nextElementSibling;
      else this.#body.insertBefore(entry.element, next);
    }
    this.tick();
  }

  /** Move the clocks of what is in flight. */
  tick(now = Date.now()) {
    for (const entry of this.#entries.values()) {
      if (!entry.inFlight || entry.element === null) continue;
      const since = now - this.#skew - Date.parse(entry.row.timestamp);
      setText(field(entry.element, "duration"), elapsed(since));
    }
  }

  #put(row, inFlight) {
    const entry = this.#entries.get(row.request_id);
    if (entry === undefined) {
      this.#entries.set(row.request_id, { row, inFlight, element: null, dirty: true });
      // A hidden page is not painted; it must not grow either.
      if (this.#entries.size > 2 * MOST_KEPT) this.#trimmed();
      return;
    }
    Object.assign(entry, { row, inFlight, dirty: true });
  }

  #remove(id, entry) {
    entry.element?.remove();
    this.#entries.delete(id);
  }

  #trimmed() {
    const ordered = [...this.#entries.values()].sort(newestFirst);
    if (this.#paused && this.#entries.size <= 2 * MOST_KEPT) return ordered;
    const room = { true: MOST_IN_FLIGHT, false: MOST_ENDED };
    return ordered.filter((entry) => {
      room[entry.inFlight] -= 1;
      if (room[entry.inFlight] >= 0) return true;
      this.#remove(entry.row.request_id, entry);
      return false;
    });
  }
}

/** The order of the store: by the text of the start, in microseconds, then by id. */
function newestFirst({ row: one }, { row: other }) {
  if (one.timestamp !== other.timestamp) return one.timestamp < other.timestamp ? 1 : -1;
  return one.request_id < other.request_id ? 1 : -1;
}

function fill({ row, inFlight, element }) {
  const bad = !inFlight && failed(row);
  element.classList.toggle("in-flight", inFlight);
  element.classList.toggle("failed", bad);
  element.dataset.request = row.request_id;
  fillTime(field(element, "time"), row.timestamp);
  fillStatus(field(element, "status"), row, inFlight, bad);
  put(element, "model", row.model ?? row.model_requested ?? UNKNOWN);
  put(element, "provider", row.provider ?? "");
  field(element, "provider").dataset.provider = row.provider ?? "";
  put(element, "method", row.method ?? "");
  put(element, "path", row.path || row.endpoint || UNKNOWN);
  put(element, "note", bad ? errorText(row) : client(row.user_agent));
  put(element, "duration", inFlight ? "" : duration(row.duration_ms));
  put(element, "first", blankOr(row.ttft_ms, inFlight, duration));
  put(element, "input", blankOr(row.tokens_input, inFlight, count));
  put(element, "cached", blankOr(row.cache_read_tokens, inFlight, count));
  put(element, "output", blankOr(row.tokens_output, inFlight, count));
  put(element, "cost", blankOr(row.cost_usd, inFlight, cost));
  fillBar(field(element, "bar"), row, inFlight);
  titles(element, row);
}

/** What is not known yet is blank; what will never be known is a dash. */
function blankOr(value, inFlight, format) {
  return inFlight && number(value) === null ? "" : format(value);
}

/** How long it took, on a scale of 10 ms to 2 minutes; the pale part is the wait for a token. */
function fillBar(bar, row, inFlight) {
  const took = inFlight ? null : number(row.duration_ms);
  bar.style.width = took === null ? "0" : `${scaled(took)}%`;
  const waited = number(row.ttft_ms);
  const share = took && waited !== null ? Math.min(1, waited / took) : 0;
  bar.style.setProperty("--waited", `${Math.round(share * 100)}%`);
}

function scaled(milliseconds) {
  const share = Math.log10(Math.max(10, milliseconds) / 10) / Math.log10(120_000 / 10);
  return Math.round(4 + 96 * Math.min(1, share));
}

function fillTime(time, timestamp) {
  time.dateTime = timestamp;
  time.title = utc(timestamp);
  setText(time, clock(timestamp));
}

function fillStatus(badge, row, inFlight, bad) {
  badge.dataset.kind = inFlight ? "live" : bad ? (row.client_disconnected ? "warn" : "bad") : "good";
  if (inFlight) return setText(badge, row.streaming ? "streaming" : "in flight");
  setText(badge, row.status_code === null ? "no answer" : String(row.status_code));
}

function errorText(row) {
  const kind = words(row.error_type);
  // "overloaded: Overloaded" says it once too often.
  if (row.error_message?.toLowerCase() === kind) return row.error_message;
  return [kind, row.error_message].filter(Boolean).join(": ") || "error";
}

/** The product names of a user agent, without the parts in brackets. */
function client(agent) {
  return agent ? agent.replace(/\s*\([^)]*\)/g, "").slice(0, 120) : "";
}

function titles(element, row) {
  field(element, "model").title = modelTitle(row);
  field(element, "path").title = row.path ?? "";
  field(element, "note").title = [row.error_message, row.user_agent].filter(Boolean).join("\n");
  field(element, "cost").title = row.cost_source ? `from ${row.cost_source}` : "";
  const written = number(row.cache_write_tokens);
  field(element, "cached").title = written ? `${count(written)} written to the cache` : "";
  const thought = number(row.tokens_reasoning);
  field(element, "output").title = thought ? `${count(thought)} of them reasoning` : "";
}

function modelTitle(row) {
  if (!row.model_requested || !row.model || row.model_requested === row.model) return row.model ?? "";
  return `${row.model} (asked for ${row.model_requested})`;
}

function field(element, name) {
  return element.querySelector(`[data-f="${name}"]`);
}

function put(element, name, text) {
  const place = field(element, name);
  place.classList.toggle("unknown", text === UNKNOWN);
  setText(place, text);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
