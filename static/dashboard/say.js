// What the page says for a moment, and what it puts on the clipboard.

const SHOWN = 4_000;
let timer = 0;

/** Says `text` at the bottom of the page for a while. */
export function toast(text) {
  const place = document.querySelector("[data-toast]");
  place.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => {
    place.textContent = "";
  }, SHOWN);
}

/** Puts `text` on the clipboard. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast(text); // no clipboard without TLS: it can be marked here
  }
}
