// Puts the parts together: the page as the server rendered it, and what keeps it up to date.

import { DASHBOARD, PROXY } from "./addresses.js";
import { drawCharts, whenChosen } from "./charts.js";
import { showChanges } from "./compare.js";
import { Connection } from "./connection.js";
import { showContent, switchContent } from "./content.js";
import { curl } from "./curl.js";
import { showEvents } from "./event_strip.js";
import { FilterField } from "./filter.js";
import { keyboard } from "./keys.js";
import { showLater } from "./later.js";
import { Link } from "./link.js";
import { absolute, go, onChange, read, refresh, start } from "./navigate.js";
import { openPalette, startPalette } from "./palette.js";
import { savePicture, saveValues } from "./panels.js";
import { pick, pickChosen, showPicks, unpick } from "./picks.js";
import { copy, toast } from "./say.js";
import { closePanel, isPanelOpen, mark, move, openChosen, openPanel, openRow, scope, whenPanelChanges } from "./side_panel.js";
import { showSql, toggleSqlChart } from "./sql_page.js";
import { changed, common, page, remember } from "./state.js";
import { reset, showStatus } from "./status.js";
import { LiveTable } from "./table.js";
import { chooseTab, showTabs } from "./tabs.js";
import { localize } from "./times.js";

const REFRESH = 3_000;
const IDLE_REFRESH = 30_000;
const STATUS = 5_000;

const one = (selector, root = document) => root.querySelector(selector);
const collects = document.body.dataset.collects === "true";

let table = null;
let paused = false;
let refreshAt = 0;
let lastRefresh = Date.now();
let asked = null;
let skew = 0;

// -- what the live connection says --

const heard = {
  snapshot: ({ entries, in_flight: inFlight, store }) => {
    table?.snapshot(entries, inFlight);
    if (store.available === !one("[data-away]")) return;
    lastRefresh = 0; // however long it took last: what the page says of the store is not so any more
    soon(0);
  },
  request_start: (view) => table?.started(view),
  request_gone: (view) => table?.gone(view),
  request_complete: ended,
  request_error: ended,
  batch: (events) => events.forEach(take),
};

function take({ type, data }) {
  heard[type]?.(data);
}

function received(message) {
  if (message.type === "snapshot") {
    skew = Date.now() - Date.parse(message.timestamp);
    if (table) table.skew = skew;
  }
  take(message);
}

function ended(view) {
  table?.ended(view);
  soon(REFRESH);
}

const connection = new Connection({
  onMessage: received,
  onState: (state, waitMs, way) => {
    link.show(state, waitMs, way);
    if (state === "signed-out") location.reload();
    if (state === "live") soon(REFRESH);
  },
});
const link = new Link(one("[data-link]"), () => connection.retryNow());

// -- what the server counts: asked for again a little after something happened --

function soon(wait) {
  const at = Math.max(Date.now() + wait, lastRefresh + REFRESH);
  if (refreshAt === 0 || at < refreshAt) refreshAt = at;
}

async function refreshIfDue() {
  if (document.hidden || !one("[data-live-part], [data-away], [data-article]")) return;
  const idle = Date.now() - lastRefresh > IDLE_REFRESH && one("[data-live='true']");
  if (!idle && (refreshAt === 0 || Date.now() < refreshAt)) return;
  if (page() === "request" && !one("[data-article] .empty")) return;
  refreshAt = 0;
  lastRefresh = Date.now();
  const took = page() === "request" ? await go(location.href, { push: false }) : await refresh();
  // Where figures take long to count, they are asked for less often.
  lastRefresh = Date.now() + Math.min(60_000, 20 * (took ?? 0));
}

// -- the page --

function mount(kind) {
  localize(one("#main"));
  showTabs();
  showLater(showTabs);
  showPicks();
  drawCharts();
  if (kind === "refreshed") {
    mark();
    show();
    return;
  }
  for (const place of document.querySelectorAll("[data-origin]")) place.textContent = PROXY;
  const words = one("[data-words]");
  if (words && !words.value) words.focus();
  const form = one("[data-filter]");
  if (form) new FilterField(form);
  const feed = one("[data-feed]");
  mark(null);
  table = feed ? new LiveTable(feed, show) : null;
  if (table) table.skew = skew;
  paused = false;
  hold();
  showStatus();
  showContent(document, location.hash);
  showEvents(document);
  showChanges(document);
  showSql();
  closePanel();
  const parameters = heardParameters();
  if (collects && asked !== parameters) connection.open(parameters);
  else if (collects && table) connection.again();
  asked = parameters;
  show();
}

/** Whose requests the connection tells of: those of the table, or of the sessions that are shown. */
function heardParameters() {
  const session = one("[data-session-id]");
  if (session) return String(new URLSearchParams({ session: session.dataset.sessionId }));
  // Other pages need no more of the connection than that it is there.
  return table || page() === "sessions" ? String(common()) : asked ?? "";
}

let painting = false;
function show() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    if (!table) return;
    const active = one("[data-active]");
    if (active) setText(active, `${table.inFlight} in flight now`);
    const fresh = one("[data-new]");
    if (fresh) {
      fresh.hidden = table.unseen === 0;
      setText(fresh, `${table.unseen} new`);
    }
    const button = one("[data-pause-text]");
    if (button) setText(button, paused ? "Resume" : "Pause");
    const empty = one("[data-empty]");
    if (empty && collects) empty.hidden = table.size > 0;
    table.tick();
  });
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** New rows wait while the list is paused, scrolled away, or being read. */
function hold() {
  if (!table) return;
  const held = paused || scrollY > 400 || isPanelOpen();
  if (table.held !== held) table.held = held;
  one("[data-pause]")?.setAttribute("aria-pressed", String(paused));
  show();
}

function togglePause() {
  if (!one("[data-pause]")) return false;
  paused = !paused;
  hold();
  return true;
}

function showNew() {
  paused = false;
  scrollTo(0, 0);
  closePanel();
  table.showWaiting();
  hold();
}

// -- clicks --

const clicks = {
  "[data-open]": (element, event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    openPanel(element.href);
  },
  "[data-close]": () => closePanel(),
  "[data-pause]": () => togglePause(),
  "[data-new]": () => showNew(),
  "[data-older]": (element, event) => {
    event.preventDefault();
    loadOlder(element);
  },
  "[data-panel-csv]": async (element) => {
    const problem = await saveValues(element);
    if (problem) toast(problem);
  },
  "[data-panel-png]": (element) => savePicture(element),
  "[data-tab]": (element) => chooseTab(element),
  "[data-pick]": (element) => pick(element),
  "[data-unpick]": () => unpick(),
  "[data-sql-chart]": (element) => toggleSqlChart(element),
  "[data-palette-button]": () => palette(),
  "[data-chart-kind]": (element) => {
    for (const each of element.parentElement.children) each.setAttribute("aria-pressed", String(each === element));
    one('[data-chart="spend"]').dataset.kind = element.dataset.chartKind;
    setText(one("#chart-spend"), element.textContent);
    drawCharts();
  },
  "[data-copy-button]": (element) => copy(element.parentElement.querySelector("[data-copy]").textContent),
  "[data-content-as]": (element) => switchContent(element),
  "[data-copy-link]": () => copy(location.href),
  "[data-copy-curl]": (element) => copy(curl(element.dataset)),
  "[data-copy-text]": (element) => copy(element.dataset.copyText),
  "[data-help]": () => one("[data-help-dialog]").showModal(),
  "[data-reset]": async () => {
    const said = await reset();
    if (said) toast(said);
  },
  "[data-rows] .row": (element, event) => {
    if (!event.target.closest("a, button, input, label") && !getSelection().toString()) openRow(element, event);
  },
};

document.addEventListener("click", (event) => {
  for (const [selector, act] of Object.entries(clicks)) {
    const element = event.target.closest(selector);
    if (element) {
      act(element, event);
      break;
    }
  }
  for (const menu of document.querySelectorAll("[data-menu][open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

async function loadOlder(link) {
  const place = link.closest("[data-more]");
  place.classList.add("busy");
  const found = await read(link.href);
  place.classList.remove("busy");
  const rows = found?.page.querySelectorAll("[data-rows] .row") ?? [];
  if (!found) return toast("The server does not answer.");
  const body = one("[data-rows]");
  const feed = one("[data-feed]");
  feed.dataset.most = Number(feed.dataset.most) + rows.length;
  const known = new Set([...body.children].map((row) => row.dataset.id));
  for (const row of [...rows]) {
    absolute(row);
    if (!known.has(row.dataset.id)) body.append(document.adoptNode(row));
  }
  localize(body);
  const next = found.page.querySelector("[data-more]");
  if (next) absolute(next);
  if (next) place.replaceWith(document.adoptNode(next));
  else place.remove();
}

/** Shows the page `name`; its lists keep range and filters, and their order where they share one. */
function goTo(name) {
  if (name && !one(`#nav a[href$="/${name}"], #nav a[href*="/${name}?"]`)) return;
  const url = new URL(new URL(name, DASHBOARD).href.replace(/\/$/, ""));
  if (["", "requests", "sessions"].includes(name)) url.search = common();
  if (name === "sessions" || page().startsWith("session")) url.searchParams.delete("sort");
  go(url.href);
}

function palette() {
  const actions = { "Copy the link to this page": () => copy(location.href), "Keyboard shortcuts": () => one("[data-help-dialog]").showModal(), "Change the theme": () => themeButton.click() };
  if (one("[data-pause]")) actions["Pause or resume the list"] = togglePause;
  openPalette(actions);
}

// -- theme and keyboard --

const THEMES = ["system", "light", "dark"];
const themeButton = one("[data-theme-switch]");

function showTheme(theme) {
  setText(one("[data-theme-name]"), `Theme: ${theme}`);
  themeButton.title = `Theme: ${theme}`;
  themeButton.dataset.theme = theme;
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(themeButton.dataset.theme) + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  remember("theme", next);
  showTheme(next);
  drawCharts();
});

keyboard({
  move,
  open: openChosen,
  close: () => {
    const menu = one("[data-menu][open]");
    if (menu) menu.open = false;
    return Boolean(menu) || closePanel() || unpick();
  },
  pause: togglePause,
  copy: () => copy(location.href),
  help: () => one("[data-help-dialog]").showModal(),
  palette,
  pick: pickChosen,
  filter: () => one("[data-filter] [name=f], [data-words]")?.focus(),
  page: goTo,
  press: (key) => {
    const element = one(`[data-key="${CSS.escape(key)}"]`, scope());
    element?.click();
    return Boolean(element);
  },
});

whenChosen({ zoom: (range) => go(changed({ range }).href), filter: (filter) => go(changed(filter).href) });
whenPanelChanges(hold);
startPalette();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts());
addEventListener("resize", () => drawCharts());
addEventListener("scroll", hold, { passive: true });
document.addEventListener("visibilitychange", () => soon(0));
showTheme(document.documentElement.dataset.theme ?? "system");
start();
onChange(mount);
mount("navigated");
if (!collects) link.show("off", 0);

setInterval(() => {
  link.tick();
  table?.tick();
  refreshIfDue();
}, 500);
setInterval(showStatus, STATUS);
