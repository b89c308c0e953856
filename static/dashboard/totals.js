// The figures on top: what the store counted, plus what ended since.

import { costTotal, count, duration, number, percent, shortCount, UNKNOWN } from "./format.js";

const NOTHING = Object.freeze({
  requests: 0,
  errors: 0,
  timed: 0,
  duration: 0,
  cost: 0,
  priced: 0,
  input: 0,
  output: 0,
  cacheRead: 0,
  cacheWrite: 0,
});
// The store has a record about a second after the request's end.
const UNSTORED_FOR = 3_000;
const MOST_RECENT = 500;

export function failed(row) {
  return row.error_type !== null || row.status_code === null || row.status_code >= 400;
}

export class Totals {
  #root;
  #sums = { ...NOTHING };
  #recent = new Map();
  #active = 0;
  #streaming = 0;

  constructor(root) {
    this.#root = root;
  }

  /**
   * Start again from what the store counted. `stored` are ids it is known to have; what ended just
   * now and is not among them is added. Without `totals` (the store is away) counting goes on.
   */
  reset(totals, stored, now = Date.now()) {
    if (totals === null) return;
    this.#sums = fromStore(totals);
    for (const [id, { row, at }] of this.#recent) {
      if (now - at > UNSTORED_FOR || stored.has(id)) continue;
      add(this.#sums, row);
    }
  }

  /** A request ended. Hearing of it twice changes nothing. */
  ended(row, now = Date.now()) {
    if (this.#recent.has(row.request_id)) return;
    this.#remember(row, now);
    add(this.#sums, row);
  }

  /** These rows are in the store's figures already. */
  known(rows) {
    for (const row of rows) this.#remember(row, 0);
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
    this.#tile("latency", sums.timed ? duration(sums.duration / sums.timed) : UNKNOWN, "to the last byte");
    this.#tile("cost", sums.priced ? costTotal(sums.cost) : UNKNOWN, costNote(sums));
    this.#tile("input", shortCount(allInput), `${shortCount(sums.input)} uncached`);
    this.#tile("output", shortCount(sums.output), sums.requests ? `${shortCount(sums.output / sums.requests)} a request` : "");
    this.#tile("cache", percent(sums.cacheRead, allInput), `${shortCount(sums.cacheRead)} read, ${shortCount(sums.cacheWrite)} written`, sums.cacheRead, allInput);
    this.#root.dataset.active = this.#active > 0;
    this.#root.dataset.failing = sums.errors > 0;
  }

  #tile(name, figure, sub, part = 0, all = 0) {
    setText(this.#root.querySelector(`[data-total="${name}"]`), figure);
    setText(this.#root.querySelector(`[data-sub="${name}"]`), sub);
    const meter = this.#root.querySelector(`[data-meter="${name}"]`);
    if (meter) meter.style.width = all ? `${(100 * part) / all}%` : "0";
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function costNote(sums) {
  const unpriced = sums.requests - sums.priced;
  const each = sums.priced ? `${costTotal(sums.cost / sums.priced)} a request` : "";
  if (!unpriced) return each;
  return [each, `${count(unpriced)} without a price`].filter(Boolean).join(" · ");
}

function fromStore(totals) {
  return {
    requests: number(totals.requests) ?? 0,
    errors: number(totals.errors) ?? 0,
    timed: number(totals.timed) ?? 0,
    duration: (number(totals.avg_duration_ms) ?? 0) * (number(totals.timed) ?? 0),
    cost: number(totals.cost_usd) ?? 0,
    priced: number(totals.priced) ?? 0,
    input: number(totals.tokens_input) ?? 0,
    output: number(totals.tokens_output) ?? 0,
    cacheRead: number(totals.cache_read_tokens) ?? 0,
    cacheWrite: number(totals.cache_write_tokens) ?? 0,
  };
}

function add(sums, row) {
  const money = number(row.cost_usd);
  const took = number(row.duration_ms);
  sums.requests += 1;
  sums.errors += failed(row) ? 1 : 0;
  sums.timed += took === null ? 0 : 1;
  sums.duration += took ?? 0;
  sums.priced += money === null ? 0 : 1;
  sums.cost += money ?? 0;
  sums.input += number(row.tokens_input) ?? 0;
  sums.output += number(row.tokens_output) ?? 0;
  sums.cacheRead += number(row.cache_read_tokens) ?? 0;
  sums.cacheWrite += number(row.cache_write_tokens) ?? 0;
}
