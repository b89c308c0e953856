// What changed in the words between two requests, on the page that compares them.

import { changes, element, json } from "./content.js";

/** Fills each place for changes below `root` that is not filled yet. */
export async function showChanges(root) {
  for (const place of root.querySelectorAll("[data-changes-of]:not([data-loaded])")) {
    place.dataset.loaded = "";
    const { changesOf, changesSince } = place.dataset;
    let parts;
    try {
      parts = changes(await json(changesOf, `diff?${new URLSearchParams({ with: changesSince })}`));
    } catch (error) {
      parts = [element("p", "none", error.message)];
    }
    if (place.isConnected) place.replaceChildren(...parts);
  }
}
