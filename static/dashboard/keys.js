// The keyboard: one key, one thing to do. Not while somebody types.

const PAGES = { o: "", r: "requests", s: "sessions", f: "search", l: "limits", q: "sql", t: "status" };
const AFTER_G = 1_500;

export function keyboard({ move, open, close, pause, copy, help, filter, page, press, palette, pick }) {
  let g = 0;
  const keys = {
    "/": filter,
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: open,
    Escape: close,
    p: pause,
    x: pick,
    c: copy,
    "?": help,
  };
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "k") {
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) palette();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return sendBy(event);
    if (event.key !== "Escape" && isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    if (Date.now() - g < AFTER_G && event.key in PAGES) {
      g = 0;
      event.preventDefault();
      page(PAGES[event.key]);
    } else if (event.key === "g") {
      g = Date.now();
    } else if (event.key in keys) {
      if (keys[event.key](event) !== false) event.preventDefault();
    } else if (press(event.key)) {
      event.preventDefault();
    }
  });
}

function sendBy(event) {
  if (event.key === "Enter" && event.target.matches?.("textarea")) event.target.form?.requestSubmit();
}

function isTyping(target) {
  return target.matches?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
}
