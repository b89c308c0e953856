// The charts, drawn by uPlot. Drag selects a range of time; a name in the legend that is a filter
// becomes one, another one hides its line.

import { columns, linesOf } from "./chart_kinds.js";

const UPLOT = new URL("../vendor/uPlot.js", import.meta.url).href;
const SYNC = "ccproxy";
const HEIGHT = 168;

const drawn = new Map();
let library = null;
let onZoom = () => {};
let onFilter = () => {};

/** Says what is to happen with a range that was dragged, and with a line that was clicked. */
export function whenChosen({ zoom, filter }) {
  onZoom = zoom;
  onFilter = filter;
}

/** Draws what the page has values for; again where the values, the size or the theme changed. */
export async function drawCharts() {
  const places = [...document.querySelectorAll("[data-chart]")];
  for (const place of drawn.keys()) if (!place.isConnected) forget(place);
  if (places.length === 0) return;
  library ??= (await import(UPLOT)).default;
  for (const place of places) if (place.isConnected) draw(place);
}

function forget(place) {
  drawn.get(place).chart.destroy();
  drawn.delete(place);
}

function draw(place) {
  const kind = place.dataset.kind ?? (place.dataset.chart === "latency" ? "latency" : "cost");
  const width = place.clientWidth;
  const values = JSON.parse(place.dataset.values);
  const found = linesOf(kind, values);
  // An answer of SQL may have names instead of times.
  const places = values.time ?? values.names.map((_, at) => at);
  const data = [places, ...columns(found.stacked, found.lines, places)];
  const shown = found.stacked ? [...found.lines].reverse() : found.lines;
  const theme = getComputedStyle(place).colorScheme + getComputedStyle(document.body).backgroundColor;
  const state = [kind, theme, ...shown.map(({ label }) => label)].join();
  const before = drawn.get(place);
  if (before?.state === state) {
    before.shown.forEach((line, at) => Object.assign(line, shown[at]));
    if (before.text !== place.dataset.values) before.chart.setData(data);
    if (before.width !== width) before.chart.setSize({ width, height: HEIGHT });
    Object.assign(before, { text: place.dataset.values, width });
    return;
  }
  if (before) forget(place);
  const chart = new library(options(place, { ...found, shown, names: values.names }, width), data, place);
  place.style.removeProperty("color");
  drawn.set(place, { chart, state, shown, width, text: place.dataset.values });
  legend(chart, shown);
}

function options(place, { unit, stacked, shown, names }, width) {
  const style = getComputedStyle(place);
  const colour = (name) => {
    place.style.color = `var(${name})`;
    return getComputedStyle(place).color; // the theme's, as a canvas understands it
  };
  const axis = {
    stroke: colour("--ink-3"),
    font: `12px ${style.fontFamily}`,
    grid: { stroke: colour("--line-soft"), width: 1 },
    ticks: { show: false },
  };
  const bars = stacked ? library.paths.bars({ size: [0.8, 24], radius: 0.12 }) : undefined;
  const moment = (at) => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" });
  const own = (line) => (_, __, ___, index) => (index === null || line.values[index] == null ? "—" : unit.format(line.values[index]));
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { sync: { key: place.dataset.chart === "sql" ? null : SYNC }, drag: { x: true, y: false, dist: 5 }, points: { show: !stacked } },
    scales: { x: { time: !names }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    axes: [{ ...axis, size: 30, values: names ? (_, ticks) => ticks.map((tick) => names[tick]?.slice(0, 16) ?? "") : moments }, { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => unit.format(tick)) }],
    series: [
      { label: names ? "Name" : "Time", value: (_, at) => (at === null ? "" : names ? names[at] ?? "" : moment(at)) },
      ...shown.map((line) => ({
        label: line.label,
        stroke: colour(line.ink),
        fill: stacked ? colour(line.ink) : undefined,
        width: stacked ? 0 : 1.8,
        paths: bars,
        points: { show: false },
        spanGaps: true,
        value: own(line),
      })),
    ],
    hooks: { setSelect: place.dataset.chart === "sql" ? [] : [zoomed] },
  };
}

/** Lets the names of the legend be pressed, by keyboard too. Sums hide nothing: parts make them. */
function legend(chart, shown) {
  shown.forEach((line, at) => {
    const name = chart.root.querySelectorAll(".u-legend .u-series")[at + 1]?.querySelector("th");
    if (!name) return;
    const button = Object.assign(document.createElement("button"), { type: "button", className: "name" });
    button.append(...name.childNodes);
    button.title = line.filter ? "Filter by it" : "Show or hide it";
    name.replaceChildren(button);
    // Before uPlot's own listener, which would hide the line.
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      if (line.filter) onFilter(line.filter);
      else chart.setSeries(at + 1, { show: !chart.series[at + 1].show });
    });
  });
}

/** Times of an axis in the viewer's zone: of days where it is longer than two. */
function moments(chart, ticks) {
  const days = ticks.length > 1 && ticks.at(-1) - ticks[0] > 2 * 86_400;
  return ticks.map((tick) => {
    const at = new Date(tick * 1000);
    const midnight = at.getHours() === 0 && at.getMinutes() === 0;
    if (days || midnight) return midnight ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : "";
    return at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  });
}

function zoomed(chart) {
  const { left, width } = chart.select;
  // The other chart selects the same; once is enough.
  if (width < 5 || !chart.root.matches(":hover")) return;
  const stamp = (x) => new Date(Math.round(chart.posToVal(x, "x")) * 1000).toISOString().replace(".000", "");
  onZoom(`${stamp(left)}..${stamp(left + width)}`);
}
