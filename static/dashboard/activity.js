// The small bars beside the request count: ends of the last two minutes, errors on top.

const BARS = 30;
const STEP = 4_000;
const WIDTH = 3;
const GAP = 1.5;
const HEIGHT = 34;
const SVG = "http://www.w3.org/2000/svg";

export class Activity {
  #bars = [];
  #buckets = new Map();
  #note;

  /** Draws into `place`; `note` is the element for the figure of the last minute. */
  constructor(place, note) {
    this.#note = note;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "activity");
    svg.setAttribute("viewBox", `0 0 ${BARS * (WIDTH + GAP)} ${HEIGHT}`);
    svg.setAttribute("aria-hidden", "true");
    for (let index = 0; index < BARS; index += 1) this.#bars.push(this.#pair(svg, index));
    place.append(svg);
  }

  /** A request ended at `at` (ms of the viewer's clock). */
  count(at, isError) {
    const key = Math.floor(at / STEP);
    const bucket = this.#buckets.get(key) ?? { fine: 0, errors: 0 };
    bucket[isError ? "errors" : "fine"] += 1;
    this.#buckets.set(key, bucket);
  }

  render(now = Date.now()) {
    const last = Math.floor(now / STEP);
    for (const key of this.#buckets.keys()) if (key <= last - BARS) this.#buckets.delete(key);
    const highest = Math.max(3, ...[...this.#buckets.values()].map((one) => one.fine + one.errors));
    let minute = 0;
    this.#bars.forEach(([fine, errors], index) => {
      const key = last - BARS + 1 + index;
      const bucket = this.#buckets.get(key) ?? { fine: 0, errors: 0 };
      if (key > last - 60_000 / STEP) minute += bucket.fine + bucket.errors;
      const low = Math.max(1.5, (HEIGHT * bucket.fine) / highest);
      const high = (HEIGHT * bucket.errors) / highest;
      place(fine, HEIGHT - low, low);
      place(errors, HEIGHT - low - high, high);
    });
    const text = `${minute} in the last minute`;
    if (this.#note.textContent !== text) this.#note.textContent = text;
  }

  #pair(svg, index) {
    return ["bar", "bar bar-error"].map((name) => {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("class", name);
      bar.setAttribute("x", index * (WIDTH + GAP));
      bar.setAttribute("width", WIDTH);
      bar.setAttribute("rx", 1);
      svg.append(bar);
      return bar;
    });
  }
}

function place(bar, top, height) {
  bar.setAttribute("y", Math.max(0, top).toFixed(1));
  bar.setAttribute("height", height.toFixed(1));
}
