// The charts, drawn by uPlot. Drag selects a range of time; a click in the legend hides a line.

const UPLOT = new URL("../vendor/uPlot.js", import.meta.url).href;
const SYNC = "ccproxy";
const HEIGHT = 190;
const money = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumSignificantDigits: 3 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const time = (value) => (value >= 60_000 ? `${short.format(value / 60_000)} m` : value >= 1000 ? `${short.format(value / 1000)} s` : `${short.format(value)} ms`);

/** What each chart shows: its lines from the bottom, how they are written, whether they add up. */
const KINDS = {
  cost: { unit: money, stacked: true, lines: [["cost", "Cost", "--c-1"]] },
  requests: { unit: short, stacked: true, lines: [["errors", "Failed", "--bad"], ["fine", "Succeeded", "--c-1"]] },
  tokens: {
    unit: short,
    stacked: true,
    lines: [["uncached", "Uncached", "--c-4"], ["written", "Written", "--c-3"], ["cached", "Cached", "--c-2"], ["output", "Output", "--c-1"]],
  },
  latency: { unit: { format: time }, stacked: false, lines: [["p50", "p50", "--c-2"], ["p95", "p95", "--c-1"], ["ttft", "First token p95", "--c-3"]] },
};

const drawn = new Map();
let library = null;
let onZoom = () => {};

export function whenZoomed(listener) {
  onZoom = listener;
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
  const theme = getComputedStyle(place).colorScheme + getComputedStyle(document.body).backgroundColor;
  const before = drawn.get(place);
  const state = `${kind} ${theme}`;
  if (before?.state === state) {
    if (before.values !== place.dataset.values) before.chart.setData(series(place, kind).data);
    if (before.width !== width) before.chart.setSize({ width, height: HEIGHT });
    Object.assign(before, { values: place.dataset.values, width });
    return;
  }
  if (before) forget(place);
  const { data, shown } = series(place, kind);
  const chart = new library(options(place, kind, width, shown), data, place);
  place.style.removeProperty("color");
  drawn.set(place, { chart, state, width, values: place.dataset.values });
}

/** The values in uPlot's order: the uppermost of a stack first, each with those below it. */
function series(place, kind) {
  const values = JSON.parse(place.dataset.values);
  values.fine = values.requests.map((all, at) => all - values.errors[at]);
  const { stacked, lines } = KINDS[kind];
  let sum = values.time.map(() => 0);
  const columns = lines.map(([name]) => {
    if (!stacked) return values[name];
    sum = sum.map((below, at) => below + (values[name][at] ?? 0));
    return sum;
  });
  const shown = stacked ? lines.map((_, at) => at).reverse() : lines.map((_, at) => at);
  return { data: [values.time, ...shown.map((at) => columns[at])], shown };
}

function options(place, kind, width, shown) {
  const style = getComputedStyle(place);
  const colour = (name) => {
    place.style.color = `var(${name})`;
    return getComputedStyle(place).color; // the theme's, as a canvas understands it
  };
  const { unit, stacked, lines } = KINDS[kind];
  const axis = {
    stroke: colour("--ink-3"),
    font: `12px ${style.fontFamily}`,
    grid: { stroke: colour("--line-soft"), width: 1 },
    ticks: { show: false },
  };
  const bars = stacked ? library.paths.bars({ size: [0.8, 24], radius: 0.12 }) : undefined;
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { sync: { key: SYNC }, drag: { x: true, y: false, dist: 5 }, points: { show: !stacked } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    axes: [{ ...axis, size: 30, values: moments }, { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => unit.format(tick)) }],
    series: [
      { value: (_, at) => (at === null ? "" : new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "short" })) },
      ...shown.map((at) => {
        const [name, label, ink] = lines[at];
        const own = (_, __, ___, index) => {
          const value = index === null ? null : JSON.parse(place.dataset.values)[name === "fine" ? "requests" : name][index];
          return value === null || value === undefined ? "—" : unit.format(name === "fine" ? value - JSON.parse(place.dataset.values).errors[index] : value);
        };
        return { label, stroke: colour(ink), fill: stacked ? colour(ink) : undefined, width: stacked ? 0 : 1.8, paths: bars, points: { show: false }, spanGaps: true, value: own };
      }),
    ],
    hooks: { setSelect: [zoomed] },
  };
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

/** Saves the chart beside `button` as a picture. */
export function saveChart(button) {
  const place = button.closest("section").querySelector("[data-chart]");
  const canvas = place?.querySelector("canvas");
  if (!canvas) return;
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `ccproxy-${place.dataset.kind ?? place.dataset.chart}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
