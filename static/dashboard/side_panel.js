// One request beside the list, and which row of the list is meant.

import { showContent } from "./content.js";
import { showEvents } from "./event_strip.js";
import { absolute, go, read } from "./navigate.js";
import { requestAddress } from "./state.js";
import { localize } from "./times.js";

const one = (selector, root = document) => root.querySelector(selector);
const panel = one("[data-panel]");
let chosen = null;
let onChange = () => {};

/** Calls `listener()` after the panel was opened or closed. */
export function whenPanelChanges(listener) {
  onChange = listener;
}

export function isPanelOpen() {
  return !panel.hidden;
}

/** Where a key is to look for what it presses. */
export function scope() {
  return panel.hidden ? document : panel;
}

export async function openPanel(url) {
  const { hash, pathname } = new URL(url);
  const found = await read(url);
  const article = found?.page.querySelector("[data-article]");
  if (!article) return location.assign(url);
  absolute(article);
  const bar = document.createElement("div");
  bar.className = "panel-bar";
  const whole = Object.assign(document.createElement("a"), { href: url, textContent: "Open as a page" });
  whole.dataset.nav = "";
  const close = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Close" });
  close.dataset.close = "";
  bar.append(whole, close);
  const first = panel.hidden;
  panel.replaceChildren(bar, document.adoptNode(article));
  panel.hidden = false;
  panel.scrollTop = 0;
  localize(panel);
  showContent(panel, hash);
  showEvents(panel);
  mark(decodeURIComponent(pathname.split("/").at(-1)));
  if (first) close.focus({ preventScroll: true });
  onChange();
}

export function closePanel() {
  if (panel.hidden) return false;
  panel.hidden = true;
  panel.replaceChildren();
  one(".row.chosen a.open")?.focus({ preventScroll: true });
  onChange();
  return true;
}

/** Marks the row of the request or session `id`; null: none; without `id`, the same again. */
export function mark(id = chosen) {
  chosen = id;
  for (const row of document.querySelectorAll(".row.chosen")) row.classList.remove("chosen");
  const row = id && one(`.row[data-id="${CSS.escape(id)}"]`);
  row?.classList.add("chosen");
  return row;
}

/** Goes `step` rows on. */
export function move(step) {
  const rows = [...document.querySelectorAll("[data-rows] .row")];
  if (rows.length === 0) return false;
  const at = rows.findIndex((row) => row.classList.contains("chosen"));
  const row = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  mark(row.dataset.id);
  row.scrollIntoView({ block: "nearest" });
  row.querySelector("a.open")?.focus({ preventScroll: true });
  if (!panel.hidden) openPanel(addressOf(row));
  return true;
}

/** Opens the row that is marked, unless the key was meant for something else. */
export function openChosen(event) {
  if (event.target.closest?.("a, button, summary, input")) return false;
  const row = one(".row.chosen");
  if (!row) return false;
  openRow(row, event);
  return true;
}

/** The page of the request in `row`, and the part of it that is meant. */
function addressOf(row) {
  return requestAddress(row.dataset.id) + (one("a.open", row)?.hash ?? "");
}

/** Opens `row`: a request beside the list, a session as a page; in a new tab with Ctrl. */
export function openRow(row, event) {
  const isList = row.closest("[data-list]");
  const url = isList ? one("a.open", row).href : addressOf(row);
  if (event.ctrlKey || event.metaKey) open(url, "_blank", "noopener");
  else if (isList) go(url);
  else openPanel(url);
}
