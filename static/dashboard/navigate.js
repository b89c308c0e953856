// Links and forms without a flash: the server renders each page, and what changed of it takes its
// place here. XMLHttpRequest gives a parsed document, so that no text is ever made into markup by
// script, and the page's policy (Trusted Types) can forbid that.

const changes = new EventTarget();
let asking = null;

/** Calls `listener(kind)` after the page changed: "navigated" or "refreshed". */
export function onChange(listener) {
  changes.addEventListener("change", (event) => listener(event.detail));
}

/** Returns the document at `url`; null where the server cannot be asked; never, once aborted. */
export function read(url) {
  return fetchPage(url, (request) => {
    asking = request;
  });
}

/** The same, of which the next one does not think that it is in its way. */
export function fetchPage(url, onRequest = () => {}) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("GET", url);
    request.responseType = "document";
    request.timeout = 60_000;
    request.onload = () => resolve(request.responseXML && { page: request.responseXML, url: request.responseURL, status: request.status });
    request.onerror = request.ontimeout = () => resolve(null);
    request.send();
    onRequest(request);
  });
}

/** Shows the page at `url`. Where that fails, the browser goes there by itself. */
export async function go(url, { push = true } = {}) {
  asking?.abort(); // somebody changed their mind
  document.body.classList.add("busy");
  const found = await read(url);
  if (found === null) {
    document.body.classList.remove("busy");
    if (push) location.assign(url);
    return;
  }
  if (!found.page.querySelector("#main")) {
    location.assign(found.url); // the page for signing in
    return;
  }
  const { hash } = new URL(url); // which the answer does not know
  if (push) history.pushState(null, "", found.url + hash);
  const typing = ["[data-filter] [name=f]", "[data-words]"].find((field) => document.activeElement?.matches(field));
  document.title = found.page.title;
  for (const old of document.querySelectorAll("[data-swap]")) {
    const fresh = found.page.getElementById(old.id);
    absolute(fresh);
    old.replaceWith(document.adoptNode(fresh));
  }
  document.body.classList.remove("busy");
  if (push) scrollTo(0, 0);
  if (typing) document.querySelector(typing)?.focus();
  tell("navigated");
}

/** Asks for this page again, and takes over the parts whose content changed. */
export async function refresh() {
  const address = location.href;
  const began = performance.now();
  const found = await read(address);
  if (found === null || found.status >= 500 || location.href !== address) return null;
  if (found.page.querySelector("#main")?.dataset.page !== document.querySelector("#main").dataset.page) return null;
  const parts = [...document.querySelectorAll("[data-live-part]")];
  const fresh = [...found.page.querySelectorAll("[data-live-part]")];
  if (parts.map((part) => part.id).join() !== fresh.map((part) => part.id).join() || isAway(document) !== isAway(found.page)) {
    await go(address, { push: false });
    return performance.now() - began;
  }
  parts.forEach((part, index) => {
    absolute(fresh[index]);
    update(part, fresh[index]);
  });
  tell("refreshed");
  return performance.now() - began;
}

function isAway(page) {
  return page.querySelector("[data-away]")?.textContent ?? "";
}

/** Charts are drawn again by their values; other parts are replaced where they differ. */
function update(part, fresh) {
  if (part.id !== "charts") {
    if (part.isEqualNode(fresh) || part.contains(document.activeElement)) return;
    part.replaceWith(document.adoptNode(fresh));
    return;
  }
  for (const chart of part.querySelectorAll("[data-chart]")) {
    chart.dataset.values = fresh.querySelector(`[data-chart="${chart.dataset.chart}"]`).dataset.values;
  }
}

/** Addresses in a part of another page are relative to that page; a place on a page is on any. */
export function absolute(part) {
  for (const link of part.querySelectorAll('a[href]:not([href^="#"]), link[rel=icon]')) link.setAttribute("href", link.href);
  for (const form of part.querySelectorAll("form[action]")) form.setAttribute("action", form.action);
}

function tell(kind) {
  changes.dispatchEvent(new CustomEvent("change", { detail: kind }));
}

function clicked(event) {
  const link = event.target.closest("a[data-nav]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.href);
}

function submitted(event) {
  const form = event.target;
  if (!form.matches("form[data-nav]")) return;
  event.preventDefault();
  const url = new URL(form.getAttribute("action") ? form.action : location.pathname, location.href);
  url.search = new URLSearchParams(new FormData(form));
  go(url.href);
}

export function start() {
  // What stays when a page is replaced has to lead to the same places.
  absolute(document);
  document.addEventListener("click", clicked);
  document.addEventListener("submit", submitted);
  addEventListener("popstate", () => go(location.href, { push: false }));
}
