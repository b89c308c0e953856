// The field for filters: completes names, then values. The server reads what is typed; what is set
// already stands as chips before the field, and is sent with it.

import { DASHBOARD } from "./addresses.js";
import { common } from "./state.js";

const SHOWN = 12;
let known = null;
let knownFor = "";

async function suggestions() {
  const parameters = common();
  for (const name of [...parameters.keys()]) if (name !== "range") parameters.delete(name);
  if (known && knownFor === String(parameters)) return known;
  try {
    const answer = await fetch(new URL(`suggestions?${parameters}`, DASHBOARD));
    if (!answer.ok) return null;
    known = await answer.json();
    knownFor = String(parameters);
    return known;
  } catch {
    return null; // without the server there is nothing to complete
  }
}

/** The word at the end of `text`, and what stands before it. */
function lastWord(text) {
  const at = text.lastIndexOf(" ") + 1;
  return [text.slice(0, at), text.slice(at)];
}

/** What `word` can become: `[{ text, note, done }]`. */
export function completions(word, { names, values }) {
  const [name, value] = word.split(/:(.*)/s);
  const wanted = (value ?? name).toLowerCase();
  if (value === undefined) {
    return Object.entries(names)
      .filter(([each]) => each.startsWith(wanted))
      .map(([each, note]) => ({ text: `${each}:`, note, done: false }));
  }
  return (values[name] ?? [])
    .filter((each) => each.toLowerCase().includes(wanted) && each !== value)
    .slice(0, SHOWN)
    .map((each) => ({ text: `${name}:${each.includes(" ") ? `"${each}"` : each}`, note: "", done: true }));
}

export class FilterField {
  #form;
  #input;
  #list;
  #chosen = -1;

  constructor(form) {
    this.#form = form;
    this.#input = form.querySelector("[name=f]");
    this.#list = form.querySelector("[role=listbox]");
    this.#input.addEventListener("input", () => this.#suggest());
    this.#input.addEventListener("focus", () => this.#suggest());
    this.#input.addEventListener("blur", () => setTimeout(() => this.#close(), 150));
    this.#input.addEventListener("keydown", (event) => this.#pressed(event));
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#list.addEventListener("click", (event) => this.#take(event.target.closest("[role=option]")));
    form.addEventListener("formdata", (event) => {
      event.formData.set("f", `${this.#input.dataset.chips}${this.#input.value}`.trim());
    });
  }

  async #suggest() {
    const found = await suggestions();
    if (!found || document.activeElement !== this.#input) return;
    const options = completions(lastWord(this.#input.value)[1], found);
    this.#chosen = -1;
    this.#list.replaceChildren(...options.map(option));
    this.#show(options.length > 0);
  }

  #pressed(event) {
    const options = [...this.#list.children];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (this.#list.hidden || options.length === 0) return;
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.#choose((this.#chosen + step + options.length) % options.length);
    } else if (event.key === "Tab" && !event.shiftKey && !this.#list.hidden && this.#input.value) {
      event.preventDefault();
      this.#take(options[Math.max(0, this.#chosen)]);
    } else if (event.key === "Enter" && this.#chosen >= 0) {
      event.preventDefault();
      this.#take(options[this.#chosen]);
    } else if (event.key === "Backspace" && this.#input.value === "") {
      [...this.#form.querySelectorAll(".chip a")].at(-1)?.click();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (this.#list.hidden) this.#input.blur();
      this.#close();
    }
  }

  #choose(index) {
    this.#chosen = index;
    [...this.#list.children].forEach((each, at) => each.setAttribute("aria-selected", String(at === index)));
    this.#input.setAttribute("aria-activedescendant", this.#list.children[index].id);
    this.#list.children[index].scrollIntoView({ block: "nearest" });
  }

  #take(element) {
    if (!element) return;
    this.#input.value = lastWord(this.#input.value)[0] + element.dataset.text;
    this.#input.focus();
    if (element.dataset.done === "true") this.#form.requestSubmit();
    else this.#suggest();
  }

  #close() {
    this.#show(false);
  }

  #show(open) {
    this.#list.hidden = !open;
    this.#input.setAttribute("aria-expanded", String(open));
    if (!open) this.#input.removeAttribute("aria-activedescendant");
  }
}

function option({ text, note, done }, index) {
  const element = document.createElement("div");
  element.id = `completion-${index}`;
  element.role = "option";
  element.ariaSelected = "false";
  element.dataset.text = text;
  element.dataset.done = done;
  const name = document.createElement("b");
  name.textContent = text;
  element.append(name);
  if (note) {
    const more = document.createElement("span");
    more.textContent = note;
    element.append(more);
  }
  return element;
}
