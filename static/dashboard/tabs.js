// Tabs of a panel: which one was chosen outlives that the panel is brought up to date.

const chosen = new Map();

/** A click on a tab. */
export function chooseTab(button) {
  const panel = button.closest("[data-tabbed]");
  chosen.set(panel.dataset.tabbed, button.dataset.tab);
  show(panel);
}

/** Shows again what was chosen. */
export function showTabs() {
  for (const panel of document.querySelectorAll("[data-tabbed]")) show(panel);
}

function show(panel) {
  const buttons = [...panel.querySelectorAll("[data-tab]")];
  const name = chosen.get(panel.dataset.tabbed);
  if (!buttons.some((each) => each.dataset.tab === name)) return;
  for (const each of buttons) each.setAttribute("aria-pressed", String(each.dataset.tab === name));
  for (const part of panel.querySelectorAll("[data-tab-of]")) part.hidden = part.dataset.tabOf !== name;
}
