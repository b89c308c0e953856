// The address of the page is its state: range, filters, order and columns. The server reads it
// (dashboard/page_query.py) and answers with the page; here it is only changed and passed on.

import { DASHBOARD } from "./addresses.js";

/** Where we are, as the server's pages name it: "overview", "requests", "request", "sql", … */
export function page() {
  return document.querySelector("#main").dataset.page;
}

/** The parameters that the live feed and the lists of one page share. */
export function common(search = location.search) {
  const found = new URLSearchParams(search);
  for (const name of ["cursor", "page", "f", "id"]) found.delete(name);
  // There `q` is no filter, but what was asked.
  if (["search", "sql"].includes(page())) for (const name of ["q", "limit"]) found.delete(name);
  return found;
}

/** The address of what is shown, with `changes`; null takes a parameter out. */
export function changed(changes) {
  const url = new URL(location.href);
  for (const name of ["cursor", "page"]) url.searchParams.delete(name);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  return url;
}

/** The page of one request, in the same range and with the same filters. */
export function requestAddress(id) {
  const url = new URL(`requests/${encodeURIComponent(id)}`, DASHBOARD);
  url.search = common();
  return url.href;
}

/** The page of a session, as in the server's links (dashboard/session_views.py). */
export function sessionAddress(id) {
  const parts = id.split("/");
  const isPath = !parts.some((part) => ["", ".", ".."].includes(part));
  const url = new URL(isPath ? `sessions/${parts.map(encodeURIComponent).join("/")}` : "sessions/", DASHBOARD);
  url.search = common();
  if (!isPath) url.searchParams.set("id", id);
  return url.href;
}

/** What is kept in this browser alone. */
export function remembered(name) {
  try {
    return localStorage.getItem(`ccproxy-${name}`);
  } catch {
    return null; // storage is off
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`ccproxy-${name}`, value);
  } catch {
    // Storage is off: it lasts as long as the page.
  }
}
