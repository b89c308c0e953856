// The figures on top: what the store counted, plus what ended since.

import { costTotal, count, duration, number, percent, shortCount, UNKNOWN } from "./format.js";

const NOTHING = Object.freeze({
  requests: 0,
  errors: 0,
  timed: 0,
  duration: 0,
  p95: null,
  cost: null,
  input: 0,
  output: 0,
  cacheRead: 0,
  cacheWrite: 0,
});
// The store has a record about a second after the request's end.
const UNSTORED_FOR = 3_000;
const MOST_RECENT = 5_000;

export function failed(row) {
  return row.error_type !== null || row.status_code === null || row.status_code >= 400;
}

export class Totals {
  #root;
  #sums = { ...NOTHING };
  #stored = null;
  #recent = new Map();
  #active = 0;
  #streaming = 0;

  constructor(root) {
    this.#root = root;
  }

  /**
   * Start again from what the store counted. `rows` are the newest of those it has; what ended just
   * now and is not stored is added. Without `totals` (the store is away) counting goes on.
   */
  reset(totals, rows, now = Date.now()) {
    if (totals === null) return;
    this.#sums = fromStore(totals);
    this.#stored = new Stored(totals, rows);
    for (const { row, at } of this.#recent.values()) {
      if (now - at <= UNSTORED_FOR && !this.#stored.has(row)) add(this.#sums, row);
    }
    for (const row of rows) this.#remember(row, 0);
  }

  /** A request ended. Hearing of it twice, or after the store counted it, changes nothing. */
  ended(row, now = Date.now()) {
    if (this.#recent.has(row.request_id)) return;
    this.#remember(row, now);
    if (!this.#stored?.has(row)) add(this.#sums, row);
  }

  active(total, streaming) {
    this.#active = total;
    this.#streaming = streaming;
  }

  #remember(row, at) {
    if (this.#recent.has(row.request_id)) return;
    this.#recent.set(row.request_id, { row, at });
    while (this.#recent.size > MOST_RECENT) this.#recent.delete(this.#recent.keys().next().value);
  }

  render() {
    const sums = this.#sums;
    const allInput = sums.input + sums.cacheRead + sums.cacheWrite;
    const fine = sums.requests - sums.errors;
    this.#tile("requests", count(sums.requests), "");
    this.#tile("active", count(this.#active), this.#streaming ? `${count(this.#streaming)} streaming` : "in flight now");
    this.#tile("success", percent(fine, sums.requests), `${count(fine)} succeeded`, fine, sums.requests);
    this.#tile("errors", percent(sums.errors, sums.requests), `${count(sums.errors)} failed`, sums.errors, sums.requests);
    this.#tile("latency", sums.timed ? duration(sums.duration / sums.timed) : UNKNOWN, sums.p95 === null ? "to the last byte" : `95% within ${duration(sums.p95)}`);
    this.#tile("cost", costTotal(sums.cost), sums.cost === null ? "" : `${costTotal(sums.cost / sums.requests)} a request`);
    this.#tile("input", shortCount(allInput), `${shortCount(sums.input)} uncached`);
    this.#tile("output", shortCount(sums.output), sums.requests ? `${shortCount(sums.output / sums.requests)} a request` : "");
    this.#tile("cache", percent(sums.cacheRead, allInput), `${shortCount(sums.cacheRead)} read, ${shortCount(sums.cacheWrite)} written`, sums.cacheRead, allInput);
    this.#root.dataset.active = this.#active > 0;
    this.#root.dataset.failing = sums.errors > 0;
  }

  #tile(name, figure, sub, part = 0, all = 0) {
    const place = this.#root.querySelector(`[data-total="${name}"]`);
    place.classList.toggle("unknown", figure === UNKNOWN);
    setText(place, figure);
    setText(this.#root.querySelector(`[data-sub="${name}"]`), sub);
    const meter = this.#root.querySelector(`[data-meter="${name}"]`);
    if (meter) meter.style.width = all ? `${(100 * part) / all}%` : "0";
  }
}

/** What the store had counted at some moment. Its newest rows tell of all the others, too. */
class Stored {
  #ids;
  #start = -Infinity;
  #end = -Infinity;

  constructor(totals, rows) {
    this.#ids = new Set(rows.map((row) => row.request_id));
    // Where the figures are of these rows alone, it has no other.
    if (rows.length === 0 || totals.total_requests <= rows.length) return;
    this.#start = Math.min(...rows.map(startOf));
    this.#end = Math.max(...rows.map(endOf));
  }

  /** Of older rows than those: the store gets them in the order of their ends. */
  has(row) {
    if (this.#ids.has(row.request_id)) return true;
    return startOf(row) <= this.#start && endOf(row) <= this.#end;
  }
}

function startOf(row) {
  return Date.parse(row.timestamp);
}

/** In ms of the server's clock. */
export function endOf(row) {
  return startOf(row) + (number(row.duration_ms) ?? 0);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function fromStore(totals) {
  return {
    requests: totals.total_requests,
    errors: totals.total_error_requests,
    timed: totals.avg_duration_ms === null ? 0 : totals.total_requests,
    duration: (totals.avg_duration_ms ?? 0) * totals.total_requests,
    p95: totals.p95_duration_ms,
    cost: totals.total_cost_usd,
    input: totals.total_tokens_input,
    output: totals.total_tokens_output,
    cacheRead: totals.total_cache_read_tokens,
    cacheWrite: totals.total_cache_write_tokens,
  };
}

function add(sums, row) {
  const money = number(row.cost_usd);
  const took = number(row.duration_ms);
  sums.requests += 1;
  sums.errors += failed(row) ? 1 : 0;
  sums.timed += took === null ? 0 : 1;
  sums.duration += took ?? 0;
  // No known cost at all stays "not known"; it does not become 0.
  if (money !== null) sums.cost = (sums.cost ?? 0) + money;
  sums.input += number(row.tokens_input) ?? 0;
  sums.output += number(row.tokens_output) ?? 0;
  sums.cacheRead += number(row.cache_read_tokens) ?? 0;
  sums.cacheWrite += number(row.cache_write_tokens) ?? 0;
}
