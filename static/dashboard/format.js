// How values look. Pure functions: values in, text out. `null` is "not known" and is shown as a
// dash, never as 0.

export const UNKNOWN = "—";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** Money comes as a JSON number from the store and as a decimal string from the journal. */
export function number(value) {
  if (value === null || value === undefined || value === "") return null;
  const parsed = Number(value);
  return Number.isFinite(parsed) ? parsed : null;
}

export function count(value) {
  const known = number(value);
  return known === null ? UNKNOWN : whole.format(known);
}

export function shortCount(value) {
  const known = number(value);
  if (known === null) return UNKNOWN;
  return known < 10_000 ? whole.format(known) : compact.format(known);
}

/** USD with as many decimals as say something: $12.3456, $0.018420, $0.0000012. */
export function cost(value) {
  const known = number(value);
  if (known === null) return UNKNOWN;
  return dollars(known, known === 0 ? 2 : known >= 1 ? 4 : known >= 0.001 ? 6 : smallDecimals(known));
}

/** USD of many requests: cents are enough from $100 on. */
export function costTotal(value) {
  const known = number(value);
  return known !== null && known >= 100 ? dollars(known, 2) : cost(known);
}

function smallDecimals(value) {
  const firstDigit = -Math.floor(Math.log10(Math.abs(value)));
  return Math.min(10, Math.max(6, firstDigit + 1));
}

function dollars(value, decimals) {
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return "$" + value.toLocaleString("en-US", options);
}

/** Milliseconds as people say them: 84 ms, 2.41 s, 1 m 04 s. */
export function duration(milliseconds) {
  const known = number(milliseconds);
  if (known === null) return UNKNOWN;
  if (known < 0) return "0 ms";
  if (known < 10) return `${known.toFixed(1)} ms`;
  if (known < 999.5) return `${Math.round(known)} ms`;
  if (known < 59_950) return `${(known / 1000).toFixed(known < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(known / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${pad(Math.floor(seconds / 60) % 60)} m`;
}

/** Time in flight, counted by the second so that it does not flicker. */
export function elapsed(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  return duration(seconds * 1000);
}

export function percent(part, all) {
  if (!all) return UNKNOWN;
  const share = (100 * part) / all;
  // Never round a rate with exceptions to a clean 100 % or 0 %.
  if (share > 99.9 && share < 100) return `${(Math.floor(share * 100) / 100).toFixed(2)}%`;
  if (share > 0 && share < 0.1) return `${Math.max(share, 0.01).toFixed(2)}%`;
  return `${share.toFixed(1).replace(/\.0$/, "")}%`;
}

/** The clock time in the viewer's zone; with the day where it is not today. */
export function clock(timestamp, now = new Date()) {
  const at = new Date(timestamp);
  if (Number.isNaN(at.getTime())) return UNKNOWN;
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return time;
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

export function utc(timestamp) {
  const at = new Date(timestamp);
  if (Number.isNaN(at.getTime())) return "";
  return at.toISOString().replace("T", " ").replace("Z", " UTC");
}

/** "rate_limit" → "rate limit". */
export function words(name) {
  return name ? String(name).replaceAll("_", " ") : "";
}

function pad(value) {
  return String(value).padStart(2, "0");
}
