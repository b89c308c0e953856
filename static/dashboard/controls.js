// The buttons of the page: theme and pause.

const THEMES = ["system", "light", "dark"];

export function themeSwitch(button) {
  const name = button.querySelector("[data-theme-name]");
  const show = (theme) => {
    name.textContent = `Theme: ${theme}`;
    button.title = `Theme: ${theme}`;
    button.dataset.theme = theme;
  };
  show(document.documentElement.dataset.theme ?? "system");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(button.dataset.theme) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    keep(next);
    show(next);
  });
}

function keep(theme) {
  try {
    localStorage.setItem("ccproxy-theme", theme);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
}

/** Returns a function that shows how many rows wait. */
export function pauseButton(button, onChange) {
  const text = button.querySelector("[data-pause-text]");
  const isPaused = () => button.getAttribute("aria-pressed") === "true";
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(!isPaused()));
    onChange(isPaused());
  });
  return (unseen) => {
    const label = !isPaused() ? "Pause" : unseen ? `Resume, ${unseen} new` : "Resume";
    if (text.textContent !== label) text.textContent = label;
  };
}
