// Says how the connection is: in words for everybody, the countdown for the eye alone (a screen
// reader would read it out each second).

const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  waiting: "Connection lost",
  off: "Recording is off",
  "signed-out": "Signed out",
};

export class Link {
  #root;
  #text;
  #countdown;
  #retry;
  #until = 0;

  constructor(root, retry) {
    this.#root = root;
    this.#text = root.querySelector("[data-link-text]");
    this.#countdown = root.querySelector("[data-link-countdown]");
    this.#retry = root.querySelector("[data-retry]");
    this.#retry.addEventListener("click", retry);
  }

  show(state, waitMs, way = "") {
    // From one failed attempt to the next there is nothing new to say.
    const shown = state === "connecting" && this.#root.dataset.state === "waiting" ? "waiting" : state;
    this.#root.dataset.state = shown;
    this.#root.title = way;
    this.#retry.hidden = shown !== "waiting";
    if (this.#text.textContent !== WORDS[shown]) this.#text.textContent = WORDS[shown];
    this.#until = waitMs ? Date.now() + waitMs : 0;
    this.tick();
  }

  tick() {
    const left = Math.ceil((this.#until - Date.now()) / 1000);
    const again = this.#root.dataset.state === "waiting";
    const text = !again ? "" : this.#until && left > 0 ? `retrying in ${left} s` : "retrying…";
    if (this.#countdown.textContent !== text) this.#countdown.textContent = text;
  }
}
