// What was said in a request, where that is kept: asked for by the browser, so that no worker reads
// it, and shown as text alone. Long texts and long conversations are folded.

import { LOGS } from "./addresses.js";

const LONG = 3_000;
const LATEST = 12;
const NAMES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };

/** Fills `place` with what was said in the request whose id it names. */
export async function showConversation(place) {
  if (!place || place.dataset.shown) return;
  place.dataset.shown = "asked";
  const id = encodeURIComponent(place.dataset.conversation);
  const found = await ask(new URL(`entries/${id}/content`, LOGS));
  if (!place.isConnected) return;
  if (found.problem) place.replaceChildren(element("p", "none", found.problem));
  else place.replaceChildren(...parts(found.content, id));
  place.dataset.shown = "shown";
}

async function ask(url) {
  try {
    const answer = await fetch(url);
    const content = await answer.json();
    return answer.ok ? { content } : { problem: content.error?.message ?? `The server says ${answer.status}.` };
  } catch {
    return { problem: "The server does not answer." };
  }
}

function* parts({ system, tools, messages, answer, error, verified }, id) {
  yield ways(id, verified);
  if (system?.length) yield folded("System", size(system), () => system.map(block));
  if (tools?.length) yield folded(`${tools.length} tools`, size(tools), () => tools.map(tool));
  const before = (messages ?? []).slice(0, -LATEST);
  if (before.length) yield folded(`${before.length} earlier messages`, size(before), () => before.map(message));
  for (const each of (messages ?? []).slice(-LATEST)) yield message(each);
  if (answer?.blocks?.length) yield message({ role: "assistant", blocks: answer.blocks }, "Answer");
  if (error) yield message({ role: "error", blocks: [{ type: "other", name: "error", input: error }] }, "Error");
}

function ways(id, verified) {
  const row = element("p", "ways");
  for (const [name, raw] of [["Raw request", "request"], ["Raw answer", "response"], ["Events", "events"]]) {
    const link = element("a", "button", name);
    link.href = new URL(`entries/${id}/content?raw=${raw}`, LOGS);
    if (raw !== "events") link.download = `${id}-${raw}`;
    row.append(link);
  }
  const states = Object.values(verified ?? {});
  const said = states.every((one) => one === "ok") ? "byte for byte as on the wire" : states.includes("damaged") ? "damaged on disk" : "a secret was taken out";
  row.append(element("span", "scope", said));
  return row;
}

function message({ role, blocks }, title) {
  const part = element("section", `said-by by-${role}`);
  part.append(element("h3", "", title ?? NAMES[role] ?? role));
  part.append(...(blocks ?? []).map(block));
  return part;
}

function block(one) {
  const text = one.text ?? "";
  switch (one.type) {
    case "text":
      return words(text);
    case "thinking":
      return folded("Thinking", count(text), () => [words(text)]);
    case "tool_use":
      return folded(`Calls ${one.name}`, preview(one.input), () => [words(pretty(one.input), "code")]);
    case "tool_result":
      return folded(one.is_error ? "Tool failed" : "Tool result", preview(text), () => [words(text, "code")]);
    case "image":
    case "document":
      return element("p", "none", [`[${one.type}]`, one.media_type, one.bytes && `${one.bytes} bytes`].filter(Boolean).join(" "));
    default:
      return folded(one.name || one.type || "Other", preview(one.input ?? text), () => [words(pretty(one.input ?? text), "code")]);
  }
}

function tool(one) {
  const { name, description, ...rest } = one;
  return folded(name ?? "tool", (description ?? "").slice(0, 120), () => [words(description ?? ""), words(pretty(rest), "code")]);
}

/** A part that is made when somebody opens it. */
function folded(title, note, make) {
  const part = element("details", "fold");
  const summary = element("summary", "", "");
  summary.append(element("b", "", title), element("span", "", note));
  part.append(summary);
  part.addEventListener("toggle", () => {
    if (part.open && part.childElementCount === 1) part.append(...make());
  });
  return part;
}

function words(text, kind = "") {
  const place = element("div", `words ${kind}`, text.slice(0, LONG));
  if (text.length <= LONG) return place;
  const more = element("button", "quiet", `… ${count(text.slice(LONG))} more`);
  more.type = "button";
  more.addEventListener("click", () => place.replaceChildren(text));
  place.append(more);
  return place;
}

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "";
}

function preview(value) {
  return (typeof value === "string" ? value : JSON.stringify(value) ?? "").slice(0, 120);
}

function count(text) {
  return `${text.length.toLocaleString("en-US")} characters`;
}

function size(value) {
  return `${JSON.stringify(value).length.toLocaleString("en-US")} characters`;
}
