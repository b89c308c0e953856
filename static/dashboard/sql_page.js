// The page for SQL: what was asked before (kept in this browser alone), and the answer as a chart.

import { DASHBOARD } from "./addresses.js";
import { drawCharts } from "./charts.js";
import { remember, remembered } from "./state.js";

const MOST = 30;
const LONGEST = 4_000;
const SHOWN = 8;

/** Remembers what was asked, and shows what was asked before. */
export function showSql() {
  const place = document.querySelector("[data-sql-history]");
  if (!place) return;
  const asked = document.querySelector("#statement").value.trim();
  const answered = document.querySelector("[data-sql-answer]") !== null;
  if (asked && answered && asked.length <= LONGEST) write([asked, ...history().filter((each) => each !== asked)].slice(0, MOST));
  const before = history().filter((each) => each !== asked);
  place.hidden = before.length === 0;
  place.querySelector("ol").replaceChildren(...before.slice(0, SHOWN).map(entry));
}

function history() {
  try {
    const found = JSON.parse(remembered("sql") ?? "[]");
    return Array.isArray(found) ? found.filter((each) => typeof each === "string") : [];
  } catch {
    return []; // somebody else's
  }
}

function write(statements) {
  remember("sql", JSON.stringify(statements));
}

function entry(statement) {
  const url = new URL("sql", DASHBOARD);
  url.searchParams.set("q", statement);
  const link = Object.assign(document.createElement("a"), { href: url.href, textContent: statement.replaceAll(/\s+/g, " ").slice(0, 160), title: statement });
  link.dataset.nav = "";
  const item = document.createElement("li");
  item.append(link);
  return item;
}

/** Shows the answer as a chart, or as a table again. */
export function toggleSqlChart(button) {
  const place = document.querySelector("[data-sql-chart-place]");
  place.hidden = !place.hidden;
  button.setAttribute("aria-pressed", String(!place.hidden));
  if (!place.hidden) drawCharts();
}
