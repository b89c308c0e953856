// What each chart shows: its lines from the bottom, how they are written, and which filter a line is.

const money = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumSignificantDigits: 3 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const share = new Intl.NumberFormat("en-US", { style: "percent", maximumFractionDigits: 1 });
const time = { format: (value) => (value >= 60_000 ? `${short.format(value / 60_000)} m` : value >= 1000 ? `${short.format(value / 1000)} s` : `${short.format(value)} ms`) };
const INKS = ["--c-1", "--c-2", "--c-3", "--c-5", "--c-6", "--c-7", "--c-8"];

const line = (label, ink, values, filter = null) => ({ label, ink, values, filter });

const KINDS = {
  cost: ({ models, cost }) => ({
    unit: money,
    stacked: true,
    lines: models?.length
      ? models.map(({ name, filter, cost: values }, at) => line(name, filter ? INKS[at % INKS.length] : "--c-4", values, filter ? { model: filter } : null))
      : [line("Cost", "--c-1", cost)],
  }),
  requests: ({ requests, errors }) => ({
    unit: short,
    stacked: true,
    lines: [
      line("Failed", "--bad", errors, { error: "any" }),
      line("Succeeded", "--c-1", requests.map((all, at) => all - errors[at]), { error: "none" }),
    ],
  }),
  tokens: ({ uncached, written, cached, output }) => ({
    unit: short,
    stacked: true,
    lines: [line("Uncached", "--c-4", uncached), line("Written", "--c-3", written), line("Cached", "--c-2", cached), line("Output", "--c-1", output)],
  }),
  sql: ({ lines }) => ({
    unit: short,
    stacked: false,
    lines: lines.map(({ name, values }, at) => line(name, INKS[at % INKS.length], values)),
  }),
  limits: ({ used }) => ({ unit: share, stacked: false, lines: [line("Used", "--c-1", used)] }),
  latency: ({ p50, p95, ttft50, ttft }) => ({
    unit: time,
    stacked: false,
    lines: [line("p50", "--c-2", p50), line("p95", "--c-1", p95), line("First token p50", "--c-5", ttft50), line("First token p95", "--c-3", ttft)],
  }),
};

/** The lines of a chart: `{ unit, stacked, lines: [{ label, ink, values, filter }] }`. */
export function linesOf(kind, values) {
  return KINDS[kind](values);
}

/** The values in uPlot's order: the uppermost of a stack first, each with those below it. */
export function columns(stacked, lines, times) {
  let sum = times.map(() => 0);
  const found = lines.map(({ values }) => {
    if (!stacked) return values;
    sum = sum.map((below, at) => below + (values[at] ?? 0));
    return sum;
  });
  return stacked ? found.reverse() : found;
}
