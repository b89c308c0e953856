// What was said in one request: the conversation, the bodies, the events, what changed. Texts are
// anybody's: they are shown as text, never as markup, and what is invisible in them is named.

import { LOGS } from "./addresses.js";

const FIRST_MESSAGES = 20;
const MORE_MESSAGES = 100;
const LONGEST_TEXT = 6_000;
const LONGEST_BODY = 200_000;
const MORE_TEXT = 200_000;
const FIRST_EVENTS = 300;
const ROLES = { user: "User", assistant: "Assistant", tool: "Tool", model: "Assistant", answer: "Answer" };
const KINDS = { thinking: "Thinking", tool_use: "Tool call", tool_result: "Tool result" };
const INVISIBLE = /[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** Loads what was said into each place for it that is not filled yet; an address with the `hash`
 * `#said` means it, so it is scrolled to, before and after there is something to see. */
export function showContent(root, hash) {
  for (const place of root.querySelectorAll("[data-content]:not([data-loaded])")) {
    place.dataset.loaded = "";
    const aim = () => hash === "#said" && place.scrollIntoView();
    aim();
    show(place, "conversation").then(aim);
  }
}

/** A click on one of the ways to see it. */
export function switchContent(button) {
  const place = button.closest("[data-content]");
  for (const each of button.parentElement.children) each.setAttribute("aria-pressed", String(each === button));
  show(place, button.dataset.contentAs);
}

const WAYS = {
  conversation: async (id) => conversation(await json(id, "content")),
  request: async (id) => body(await text(id, "request"), id, "request"),
  response: async (id) => body(await text(id, "response"), id, "response"),
  events: async (id) => events(await json(id, "content?raw=events")),
  changes: async (id) => changes(await json(id, "diff")),
};

async function show(place, way) {
  const target = place.querySelector("[data-content-body]");
  place.dataset.way = way;
  target.setAttribute("aria-busy", "true");
  let parts;
  try {
    parts = await WAYS[way](place.dataset.content);
  } catch (error) {
    parts = [element("p", "none", error.message)];
  }
  if (!target.isConnected || place.dataset.way !== way) return; // another one was asked for meanwhile
  target.removeAttribute("aria-busy");
  target.replaceChildren(...parts);
}

async function ask(id, path) {
  let answer;
  try {
    answer = await fetch(new URL(`entries/${encodeURIComponent(id)}/${path}`, LOGS), { cache: "no-store" });
  } catch {
    throw new Error("The server does not answer.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Error(said?.error?.message ?? `The server answered ${answer.status}.`);
}

/** What the API says of the request `id` at `path`; throws what to say where it says nothing. */
export const json = async (id, path) => (await ask(id, path)).json();
const text = async (id, raw) => (await ask(id, `content?raw=${raw}`)).text();

// -- the conversation --

function conversation(found) {
  const parts = [];
  if (found.system.length) parts.push(folded("System", found.system.map(block), size(found.system)));
  if (found.tools.length) parts.push(tools(found.tools));
  parts.push(...earlier(found.messages, FIRST_MESSAGES));
  if (found.answer) parts.push(turn("answer", found.answer.blocks, found.answer.stop));
  else if (found.error !== null) parts.push(turn("answer", [{ type: "other", input: found.error }], "error"));
  if (!parts.length) parts.push(element("p", "none", "Neither the request nor the answer has words."));
  return [...parts, truth(Object.values(found.verified))];
}

/** The last `count` of `messages`, and a button for those before, some at a time. */
function earlier(messages, count) {
  const shown = messages.slice(-count).map((message) => turn(message.role, message.blocks));
  const rest = messages.slice(0, -count);
  if (!rest.length) return shown;
  const step = Math.min(rest.length, MORE_MESSAGES);
  const label = step === rest.length ? `Show ${number(step)} earlier messages` : `Show ${step} of ${number(rest.length)} earlier messages`;
  return [more(label, () => earlier(rest, step)), ...shown];
}

function truth(states) {
  if (states.includes("damaged")) return element("p", "notice bad", "A kept body is not what was on the wire.");
  if (states.includes("scrubbed")) return element("p", "none", "A secret was taken out; all else is byte for byte as it was on the wire.");
  return element("p", "none", "Byte for byte as it was on the wire.");
}

function tools(list) {
  const rows = list.map((tool) => {
    const row = element("details", "tool");
    row.append(element("summary", "", `${tool.name} · ${bytes(tool.bytes)}`), words(tool.description));
    return row;
  });
  return folded("Tools", rows, `${list.length}, ${bytes(list.reduce((sum, tool) => sum + tool.bytes, 0))}`);
}

function turn(role, blocks, note = "") {
  const part = element("section", `turn ${role === "answer" ? "answer-turn" : ""}`);
  part.append(element("h3", "", [ROLES[role] ?? role, note].filter(Boolean).join(" · ")));
  part.append(...blocks.map(block));
  if (!blocks.length) part.append(element("p", "none", "Nothing."));
  return part;
}

function block(one) {
  if (one.type === "text") return words(one.text);
  if (one.type === "thinking") return folded(KINDS.thinking, [words(one.text || "Hidden by the provider.")], length(one.text));
  if (one.type === "tool_use") return call(one);
  if (one.type === "tool_result") return result(one);
  if (one.type === "image" || one.type === "document") {
    return element("p", "media", [one.type, one.media_type, one.bytes ? bytes(one.bytes) : ""].filter(Boolean).join(" · "));
  }
  return words(pretty(one.input ?? one));
}

function call(one) {
  const part = element("div", "call");
  part.append(element("p", "label", `${KINDS.tool_use} · ${one.name}`), words(pretty(one.input), "code"));
  return part;
}

function result(one) {
  const kind = one.is_error ? "Tool result · error" : KINDS.tool_result;
  const long = (one.text ?? "").length > 600;
  const part = folded(kind, [words(one.text, "code")], length(one.text), !long);
  if (one.is_error) part.classList.add("failed");
  return part;
}

function folded(title, children, note = "", open = false) {
  const part = element("details", "fold");
  part.open = open;
  part.append(element("summary", "", [title, note].filter(Boolean).join(" · ")), ...children);
  return part;
}

// -- bodies, events, changes --

function body(said, id, raw) {
  const link = element("a", "", "Open as it is");
  link.href = new URL(`entries/${encodeURIComponent(id)}/content?raw=${raw}`, LOGS).href;
  const line = element("p", "none", `${bytes(new Blob([said]).size)} · `);
  line.append(link);
  return [line, words(pretty(parsed(said) ?? said), "code", LONGEST_BODY)];
}

function events({ chunks, events: list }) {
  const summary = element("p", "none", `${chunks.length} pieces${list.length ? `, ${list.length} events` : ""}. Times since the request came in.`);
  if (!list.length) return [summary, table(["After", "From byte"], chunks.map(([offset, micros]) => [millis(micros), String(offset)]))];
  const rows = list.map((event) => [millis(event.micros), kind(event.data), JSON.stringify(event.data)]);
  const shown = table(["After", "Event", "Data"], rows.slice(0, FIRST_EVENTS));
  const rest = rows.slice(FIRST_EVENTS);
  return rest.length ? [summary, shown, more(`Show ${rest.length} more events`, () => [table(["After", "Event", "Data"], rest)])] : [summary, shown];
}

/** What `diff` of the API found, in the order in which providers cache. */
export function changes(found) {
  const first = found.first;
  const said = first
    ? `The first change is in ${first.section}${first.name ? `, ${first.name}` : ""}: ${first.change}. What comes before it can be read from a cache.`
    : "Nothing before the end changed: all of the earlier request can be read from a cache.";
  const settings = Object.entries(found.settings).map(([name, [was, now]]) => element("p", "setting", `${name}: ${JSON.stringify(was)} → ${JSON.stringify(now)}`));
  return [element("p", "none", said), ...settings, ...found.parts.map(change)];
}

function change(part) {
  const title = `${part.section} ${part.index + 1}${part.name ? ` · ${part.name}` : ""}`;
  const shown = folded(title, [], part.change, part.change !== "appended");
  for (const [name, content] of [["before", part.before], ["after", part.after]]) {
    if (content === null) continue;
    const side = words(content, `code ${name}`);
    side.setAttribute("aria-label", name === "before" ? "Before" : "After");
    shown.append(side);
  }
  return shown;
}

// -- small parts --

/** An element with a text in which what is invisible is named. */
export function element(name, className = "", textContent = "") {
  return Object.assign(document.createElement(name), { className, textContent: visible(textContent) });
}

/** A text as it is, up to a length; the rest is a click away, some at a time. */
function words(said, className = "", longest = LONGEST_TEXT) {
  const whole = String(said ?? "");
  const part = element("div", `words ${className}`);
  const shown = element("pre");
  shown.textContent = visible(whole.slice(0, longest));
  part.append(shown, ...rest(whole, longest, shown));
  return part;
}

function rest(whole, from, shown) {
  if (from >= whole.length) return [];
  const isLast = whole.length - from <= MORE_TEXT;
  const label = isLast ? `Show all ${number(whole.length)} characters` : `Show ${number(MORE_TEXT)} more of ${number(whole.length)} characters`;
  return [
    more(label, () => {
      shown.append(visible(whole.slice(from, from + MORE_TEXT)));
      return rest(whole, from + MORE_TEXT, shown);
    }),
  ];
}

function more(label, give) {
  const button = Object.assign(element("button", "quiet", label), { type: "button" });
  button.addEventListener("click", () => button.replaceWith(...give()));
  return button;
}

function table(names, rows) {
  const part = element("table", "plain events");
  const head = part.createTHead().insertRow();
  for (const name of names) head.append(Object.assign(element("th", "", name), { scope: "col" }));
  const bodyOf = part.createTBody();
  for (const cells of rows) {
    const row = bodyOf.insertRow();
    for (const cell of cells) row.insertCell().textContent = visible(cell);
  }
  return part;
}

const visible = (said) => said.replace(INVISIBLE, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");
const number = (count) => count.toLocaleString("en-US");
const length = (said) => (said ? `${number(said.length)} characters` : "");
const size = (blocks) => length(blocks.map((one) => one.text ?? "").join(""));
const millis = (micros) => (micros === null ? "—" : `${(micros / 1000).toLocaleString("en-US", { maximumFractionDigits: 1 })} ms`);
const kind = (data) => String(data.type ?? data.object ?? "");

function bytes(count) {
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : count >= 1e3 ? `${(count / 1e3).toFixed(1)} KB` : `${count} B`;
}

function parsed(said) {
  try {
    return JSON.parse(said);
  } catch {
    return null;
  }
}
