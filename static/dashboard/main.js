// Puts the parts together: what the socket says goes to the table and the figures, and everything
// is painted at most once a frame.

import { Activity } from "./activity.js";
import { PROXY } from "./addresses.js";
import { Connection } from "./connection.js";
import { pauseButton, themeSwitch } from "./controls.js";
import { FeedTable } from "./feed.js";
import { utc } from "./format.js";
import { Link } from "./link.js";
import { endOf, failed, Totals } from "./totals.js";

const one = (selector) => document.querySelector(selector);

const table = new FeedTable(one("[data-rows]"), one("#row"));
const totals = new Totals(one("[data-totals]"));
const activity = new Activity(one('[data-tile="requests"]'), one('[data-sub="requests"]'));
const link = new Link(one("[data-link]"));
const counted = new Set();
let skew = 0;
let fromStore = false;
let painting = false;

const showUnseen = pauseButton(one("[data-pause]"), (paused) => {
  table.paused = paused;
  paint();
});
themeSwitch(one("[data-theme-switch]"));
for (const place of document.querySelectorAll("[data-origin]")) place.textContent = PROXY;

const heard = {
  snapshot: ({ totals: figures, since, entries, in_flight: inFlight, store }) => {
    const rows = entries ?? [];
    totals.reset(figures, rows);
    for (const row of rows) countEnd(row, endOf(row) + skew);
    table.reset(entries, inFlight);
    showStore(store);
    showSpan(figures, since);
  },
  request_start: (row) => table.started(row),
  request_complete: (row) => ended(row),
  request_error: (row) => ended(row),
  batch: (events) => events.forEach(take),
};

function take({ type, data }) {
  heard[type]?.(data);
}

function received(message) {
  if (message.type === "heartbeat") return;
  if (message.type === "snapshot") {
    skew = Date.now() - Date.parse(message.timestamp);
    table.skew = skew;
  }
  take(message);
  paint();
}

function ended(row) {
  table.ended(row);
  totals.ended(row);
  countEnd(row, Date.now());
}

function countEnd(row, at) {
  if (counted.has(row.request_id)) return;
  counted.add(row.request_id);
  if (counted.size > 5_000) counted.delete(counted.values().next().value);
  activity.count(at, failed(row));
}

function showStore(store) {
  const notice = one("[data-notice]");
  notice.hidden = store.available;
  if (!store.available) {
    one("[data-notice-title]").textContent = "The store is away.";
    one("[data-notice-text]").textContent =
      `${store.reason}. Live requests are still shown, and none is lost: they are stored when it is back.`;
  }
}

function showSpan(figures, since) {
  fromStore ||= figures !== null;
  const span = one("[data-span]");
  span.textContent = fromStore ? "last 24 hours" : "since this page was opened";
  if (figures !== null) span.title = `since ${utc(since)}`;
}

function paint() {
  if (painting) return;
  painting = true;
  // A hidden page gets no animation frames; it is painted when it is seen again.
  requestAnimationFrame(() => {
    painting = false;
    table.render();
    const inFlight = table.inFlight;
    totals.active(inFlight.length, inFlight.filter((row) => row.streaming).length);
    totals.render();
    activity.render();
    showUnseen(table.unseen);
    one("[data-empty]").hidden = table.size > 0;
    one("[data-empty-how]").hidden = false;
    one("[data-empty-title]").textContent = "No traffic yet";
  });
}

if (document.body.dataset.collects === "true") {
  const connection = new Connection({
    onMessage: received,
    onState: (state, waitMs) => {
      link.show(state, waitMs);
      if (state === "signed-out") location.reload();
    },
  });
  connection.open();
} else {
  link.show("off", 0);
}

setInterval(() => {
  link.tick();
  table.tick();
  activity.render();
}, 1000);
