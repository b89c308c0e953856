// The palette (Ctrl-K): type what you want to see or do, press Enter.

import { DASHBOARD } from "./addresses.js";
import { go } from "./navigate.js";
import { changed, common } from "./state.js";

const MOST = 12;
const PAGES = { Overview: "", Requests: "requests", Sessions: "sessions", Search: "search", Limits: "limits", SQL: "sql", Status: "status" };
const RANGES = { "Last hour": "1h", "Last 6 hours": "6h", "Last 24 hours": null, "Last 7 days": "7d", "Last 30 days": "30d" };
const FILTERS = {
  "Only errors": { error: "any" },
  "Slow requests, over 10 s": { duration: ">10s" },
  "Without a price": { unpriced: "yes" },
  "Also probes and counts of tokens": { class: "all" },
  "Clear the filters": null,
};
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

let commands = [];
let shown = [];
let at = 0;

const dialog = () => document.querySelector("[data-palette]");
const lists = () => ["overview", "requests", "sessions"].includes(document.querySelector("#main").dataset.page);

/** Opens it; `actions`: what this page can do, by its name. */
export function openPalette(actions) {
  commands = [...pages(), ...ranges(), ...filters(), ...Object.entries(actions).map(([name, act]) => ({ name, note: "do", act }))];
  const input = dialog().querySelector("input");
  input.value = "";
  dialog().showModal();
  list();
}

function pages() {
  const linked = new Set([...document.querySelectorAll("#nav a")].map((link) => link.textContent.trim()));
  return Object.entries(PAGES)
    .filter(([name]) => linked.has(name))
    .map(([name, path]) => ({ name, note: "page", act: () => go(address(path)) }));
}

function ranges() {
  return Object.entries(RANGES).map(([name, range]) => ({ name, note: "range", act: () => go(onList({ range })) }));
}

function filters() {
  return Object.entries(FILTERS).map(([name, changes]) => ({
    name,
    note: "filter",
    act: () => go(changes ? onList(changes) : address(lists() ? document.querySelector("#main").dataset.page.replace("overview", "") : "requests", false)),
  }));
}

/** The list that is shown, or that of requests, with `changes`. */
function onList(changes) {
  if (lists()) return changed(changes).href;
  const url = new URL("requests", DASHBOARD);
  for (const [name, value] of Object.entries(changes)) if (value !== null) url.searchParams.set(name, value);
  return url.href;
}

function address(path, keep = true) {
  const url = new URL(new URL(path, DASHBOARD).href.replace(/\/$/, ""));
  if (keep && ["", "requests", "sessions"].includes(path)) url.search = common();
  url.searchParams.delete("sort");
  return url.href;
}

/** What a typed text can mean besides the commands: an id, a filter, a text. */
function meant(text) {
  if (!text) return [];
  const found = [];
  if (UUID.test(text)) found.push({ name: `Request ${text}`, note: "open", act: () => go(new URL(`requests/${text}`, DASHBOARD).href) });
  const url = new URL("requests", DASHBOARD);
  url.search = common();
  url.searchParams.set("f", text);
  found.push({ name: `Requests: ${text}`, note: "filter", act: () => go(url.href) });
  const words = new URL("search", DASHBOARD);
  words.searchParams.set("q", text);
  found.push({ name: `Search what was said: ${text}`, note: "search", act: () => go(words.href) });
  return found;
}

function list() {
  const input = dialog().querySelector("input");
  const text = input.value.trim();
  const words = text.toLowerCase().split(/\s+/);
  const fits = commands.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  shown = [...fits, ...meant(text)].slice(0, MOST);
  at = 0;
  dialog().querySelector("[role=listbox]").replaceChildren(...shown.map(option));
  choose(0);
}

function option({ name, note }, index) {
  const element = document.createElement("div");
  Object.assign(element, { id: `command-${index}`, role: "option" });
  const title = Object.assign(document.createElement("b"), { textContent: name });
  const kind = Object.assign(document.createElement("span"), { textContent: note });
  element.append(title, kind);
  return element;
}

function choose(index) {
  const options = [...dialog().querySelectorAll("[role=option]")];
  at = options.length ? (index + options.length) % options.length : 0;
  options.forEach((each, number) => each.setAttribute("aria-selected", String(number === at)));
  options[at]?.scrollIntoView({ block: "nearest" });
  const input = dialog().querySelector("input");
  if (options[at]) input.setAttribute("aria-activedescendant", options[at].id);
  else input.removeAttribute("aria-activedescendant");
}

function run(index) {
  const command = shown[index];
  if (!command) return;
  dialog().close();
  command.act();
}

/** Listens to what is typed into it. */
export function startPalette() {
  const input = dialog().querySelector("input");
  input.addEventListener("input", list);
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) choose(at + steps[event.key]);
    else if (event.key === "Enter") run(at);
    else return;
    event.preventDefault();
  });
  dialog().addEventListener("click", (event) => {
    const chosen = event.target.closest("[role=option]");
    if (chosen) run([...chosen.parentElement.children].indexOf(chosen));
    else if (event.target === dialog()) dialog().close();
  });
}
