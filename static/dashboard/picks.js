// Two requests of the list that are to be compared.

import { DASHBOARD } from "./addresses.js";

/** Ids in the order in which they were picked; a third one takes the place of the first. */
let picked = [];

/** A tick at the row of a request. */
export function pick(box) {
  const { id } = box.closest(".row").dataset;
  picked = picked.filter((each) => each !== id);
  if (box.checked) picked = [...picked, id].slice(-2);
  showPicks();
}

export function unpick() {
  if (picked.length === 0) return false;
  picked = [];
  showPicks();
  return true;
}

/** Ticks or unticks the row that is marked. */
export function pickChosen() {
  const box = document.querySelector(".row.chosen [data-pick]");
  if (!box) return false;
  box.checked = !box.checked;
  pick(box);
  return true;
}

/** Shows what is picked: at the rows, and with what to do next. */
export function showPicks() {
  const boxes = [...document.querySelectorAll("[data-pick]")];
  if (boxes.length === 0) picked = [];
  for (const box of boxes) box.checked = picked.includes(box.closest(".row").dataset.id);
  const bar = document.querySelector("[data-picked]");
  if (!bar) return;
  bar.hidden = picked.length === 0;
  const link = bar.querySelector("a");
  link.hidden = picked.length < 2;
  bar.querySelector("span").textContent = picked.length === 1 ? "1 picked. Pick another one to compare." : `${picked.length} picked.`;
  // Ids sort by time: what came first is what the other one is compared with.
  const [a, b] = [...picked].sort();
  if (b) link.href = new URL(`compare?${new URLSearchParams({ a, b })}`, DASHBOARD).href;
}
