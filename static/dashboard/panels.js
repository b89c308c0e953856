// What can be taken from a panel: its values as CSV, by the statement behind it, and a picture.

import { LOGS } from "./addresses.js";
import { picture } from "./picture.js";

const MOST_ROWS = 10_000;

/** Saves the values of the panel around `button`. Returns what to say where that fails. */
export async function saveValues(button) {
  const { panelName, statement } = button.closest("[data-statement]").dataset;
  let answer;
  try {
    answer = await fetch(new URL("sql", LOGS), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ sql: statement, limit: MOST_ROWS }),
    });
  } catch {
    return "The server does not answer.";
  }
  const found = await answer.json().catch(() => null);
  if (!answer.ok) return found?.detail?.[0]?.msg ?? found?.error?.message ?? `The server answered ${answer.status}.`;
  save(new Blob([csv([found.columns, ...found.rows])], { type: "text/csv" }), `${fileName(panelName)}.csv`);
  return null;
}

/** Saves a picture of the panel around `button`. */
export function savePicture(button) {
  const { panelName } = button.closest("[data-statement]").dataset;
  picture(button.closest("section"), panelName).toBlob((blob) => save(blob, `${fileName(panelName)}.png`));
}

/** Rows as CSV (RFC 4180). What a spreadsheet would take for a formula is not let be one. */
export function csv(rows) {
  const cell = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    const plain = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/** Offers `blob` to be saved as `name`. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function fileName(name) {
  return `ccproxy-${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}`;
}
