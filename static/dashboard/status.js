// The page of the server's state: asked for again every few seconds, and the button that deletes.

import { LOGS } from "./addresses.js";

const whole = new Intl.NumberFormat("en-US");
const WORDS = {
  backlog_bytes: (value) => (value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB` : `${whole.format(value)} B`),
  writer_lag_seconds: (value) => `${value.toFixed(1)} s`,
  dropped: (value) => whole.format(Object.values(value).reduce((sum, one) => sum + one, 0)),
  last_write: (value) => new Date(value).toLocaleString("en-GB"),
};

export async function showStatus() {
  const place = document.querySelector("[data-status-page]");
  if (!place) return;
  const found = await ask();
  const notice = document.querySelector("[data-status-notice]");
  if (!place.isConnected || !notice) return;
  notice.hidden = found !== null && !found.reason;
  notice.textContent = found === null ? "The server does not answer. This page tries again by itself." : found.reason ?? "";
  if (found === null) return;
  showCounts(found);
  for (const element of document.querySelectorAll("[data-status]")) {
    const value = found[element.dataset.status];
    const known = value !== null && value !== undefined && value !== "";
    const form = WORDS[element.dataset.status] ?? ((one) => (typeof one === "number" ? whole.format(one) : String(one)));
    const text = known ? form(value) : "—";
    if (element.textContent !== text) element.textContent = text;
    element.classList.toggle("unknown", !known);
    element.title = element.dataset.status === "dropped" ? Object.entries(value ?? {}).map((pair) => pair.join(": ")).join("\n") : "";
  }
}

/** The counts of a fact by their names. */
function showCounts(found) {
  const place = document.querySelector("[data-status-counts]");
  if (!place) return;
  const counts = Object.entries(found[place.dataset.statusCounts] ?? {}).filter(([, count]) => count > 0);
  place.replaceChildren(
    ...counts.map(([name, count]) => {
      const pair = document.createElement("div");
      pair.append(Object.assign(document.createElement("dt"), { textContent: name.replaceAll("_", " ") }), Object.assign(document.createElement("dd"), { textContent: whole.format(count) }));
      return pair;
    }),
  );
  place.hidden = counts.length === 0;
  document.querySelector("[data-status-none]").hidden = counts.length > 0;
}

async function ask() {
  try {
    const answer = await fetch(new URL("status", LOGS), { cache: "no-store" });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // the server is away
  }
}

/** Asks first, then deletes all rows. Returns what to say, null where nothing was done. */
export async function reset() {
  const dialog = document.querySelector("[data-reset-dialog]");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "delete") return null;
  try {
    const answer = await fetch(new URL("reset", LOGS), { method: "POST" });
    if (!answer.ok) return `Not deleted: ${(await answer.json()).error?.message ?? answer.status}`;
  } catch {
    return "Not deleted: the server does not answer.";
  }
  await showStatus();
  return "All rows are deleted.";
}
