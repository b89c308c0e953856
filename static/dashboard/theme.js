// Applies the theme the viewer chose before the page is painted: "light", "dark", or none (as the
// system has it).
"use strict";
try {
  const chosen = localStorage.getItem("ccproxy-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is off: the system's theme it is.
}
