// When the pieces of an answer came, as a strip under its times: a gap is a gap on the wire.

import { LOGS } from "./addresses.js";

const CELLS = 240;
const SVG = "http://www.w3.org/2000/svg";

/** Fills the strip of each request below `root` whose content is kept. */
export async function showEvents(root) {
  for (const place of root.querySelectorAll("[data-event-strip]:not([data-loaded])")) {
    place.dataset.loaded = "";
    const found = await pieces(place.dataset.eventStrip);
    if (found?.length && place.isConnected) fill(place, found);
  }
}

async function pieces(id) {
  try {
    const answer = await fetch(new URL(`entries/${encodeURIComponent(id)}/content?raw=events`, LOGS), { cache: "no-store" });
    return answer.ok ? (await answer.json()).chunks : null;
  } catch {
    return null; // the times above say as much as is known
  }
}

function fill(place, chunks) {
  const end = Math.max(Number(place.dataset.end) * 1000, chunks.at(-1)[1]);
  const cells = strip(chunks.map(([, micros]) => micros), end);
  const most = Math.max(...cells);
  const svg = place.querySelector("svg");
  cells.forEach((count, at) => {
    if (count === 0) return;
    const tick = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: (100 * at) / CELLS, y: 0, width: 100 / CELLS, height: 6 })) tick.setAttribute(name, value);
    tick.setAttribute("class", "b-stream");
    tick.setAttribute("opacity", (0.35 + (0.65 * count) / most).toFixed(2));
    svg.append(tick);
  });
  place.querySelector("[data-event-count]").textContent = chunks.length.toLocaleString("en-US");
  place.hidden = false;
}

/** How many of `micros` are in each part of the time up to `end`. */
export function strip(micros, end) {
  const cells = new Array(CELLS).fill(0);
  for (const at of micros) cells[Math.min(CELLS - 1, Math.max(0, Math.floor((CELLS * at) / (end || 1))))] += 1;
  return cells;
}
