// A picture of a panel: the canvas of its chart, or its table drawn anew. Texts are painted, so
// nothing of them is markup.

const SCALE = 2;
const LINE = 24;
const EDGE = 16;

/** Returns a canvas with the title `name`, and what `panel` shows. */
export function picture(panel, name) {
  const style = getComputedStyle(panel);
  const chart = panel.querySelector("[data-chart] canvas");
  const tables = [...panel.querySelectorAll("table")].filter((table) => table.checkVisibility());
  const rows = chart ? [] : tables.flatMap((table) => [...table.rows]);
  const width = Math.max(320, panel.clientWidth);
  const legend = chart ? [...panel.querySelectorAll(".u-legend .u-series")].slice(1) : [];
  const height = 2 * EDGE + LINE + (chart ? chart.clientHeight + LINE : rows.length * LINE);
  const canvas = Object.assign(document.createElement("canvas"), { width: width * SCALE, height: height * SCALE });
  const pen = canvas.getContext("2d");
  pen.scale(SCALE, SCALE);
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(0, 0, width, height);
  pen.textBaseline = "middle";
  write(pen, name, EDGE, EDGE + LINE / 2, width - 2 * EDGE, `600 15px ${style.fontFamily}`, style.color);
  if (chart) {
    pen.drawImage(chart, EDGE, EDGE + LINE, chart.clientWidth, chart.clientHeight);
    names(pen, legend, height - EDGE - LINE / 2, style);
  } else {
    rows.forEach((row, at) => paint(pen, row, panel, EDGE + LINE * (at + 1.5)));
  }
  return canvas;
}

/** The cells of `row` where they stand in the panel. */
function paint(pen, row, panel, y) {
  const left = panel.getBoundingClientRect().left;
  for (const cell of row.cells) {
    const box = cell.getBoundingClientRect();
    const style = getComputedStyle(cell);
    const text = (cell.firstElementChild ?? cell).textContent.trim() || cell.textContent.trim();
    const room = box.width - 8;
    const font = `${style.fontWeight} 13px ${style.fontFamily}`;
    if (style.textAlign === "right") {
      pen.font = font;
      write(pen, text, box.right - left - Math.min(room, pen.measureText(text).width) - 8, y, room, font, style.color);
    } else write(pen, text, Math.max(EDGE, box.left - left), y, room, font, style.color);
  }
}

function names(pen, legend, y, style) {
  let x = EDGE;
  for (const series of legend) {
    const text = series.querySelector("th")?.textContent.trim() ?? "";
    const marker = series.querySelector(".u-marker");
    pen.fillStyle = marker ? getComputedStyle(marker).borderTopColor : style.color;
    pen.fillRect(x, y - 5, 10, 10);
    x += 15 + write(pen, text, x + 15, y, 240, `12px ${style.fontFamily}`, style.color) + 14;
  }
}

/** Paints as much of `text` as there is room for; returns how wide it is. */
function write(pen, text, x, y, room, font, colour) {
  Object.assign(pen, { font, fillStyle: colour });
  let shown = text;
  while (shown.length > 1 && pen.measureText(shown).width > room) shown = `${shown.slice(0, -2)}…`;
  pen.fillText(shown, x, y);
  return pen.measureText(shown).width;
}
