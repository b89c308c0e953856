// Parts of a page that take long to count: asked for once the rest is there, and now and then again.

import { absolute, fetchPage } from "./navigate.js";
import { localize } from "./times.js";

/** How many times as long as an answer took there is none asked for. */
const REST = 10;
let nextAt = 0;
let asking = null;

/** Fills the parts that are to come later; calls `then` when one of them changed. */
export async function showLater(then) {
  for (const place of document.querySelectorAll("[data-later]")) {
    const isNew = place.dataset.loaded === undefined;
    if (!isNew && Date.now() < nextAt) continue;
    nextAt = Infinity;
    place.dataset.loaded = "";
    const began = performance.now();
    // What another address asked for is not wanted any more: nobody is to count it for nothing.
    asking?.abort();
    const found = await fetchPage(place.dataset.later, (request) => {
      asking = request;
    });
    asking = null;
    const took = performance.now() - began;
    nextAt = Date.now() + REST * took;
    if (!place.isConnected || place.contains(document.activeElement)) continue;
    place.removeAttribute("aria-busy");
    if (!found?.page.body.childElementCount) {
      if (isNew) place.querySelector("p").textContent = "This could not be counted now.";
      continue;
    }
    absolute(found.page);
    localize(found.page.body);
    place.replaceChildren(...found.page.body.children);
    then();
  }
}
