// The WebSocket: opens it, notices when it is dead, opens it again. Knows nothing of what it says.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;
// The server says something at least every 10 s.
const SILENCE = 25_000;
const OPENING = 15_000;
const COLLECTION_OFF = 4503;

/**
 * Exponential backoff with jitter: half of the wait is certain, half is chance, so that the pages
 * of a restarted server do not all come back in the same instant.
 */
export function backoff(attempt, random = Math.random()) {
  const most = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** attempt);
  return most / 2 + (most / 2) * random;
}

export class Connection {
  #url;
  #onMessage;
  #onState;
  #socket = null;
  #timer = 0;
  #watchdog = 0;
  #attempt = 0;

  /**
   * `onMessage(message)` gets each parsed message; `onState(state, waitMs)` gets "connecting",
   * "live", "waiting" (reconnects in waitMs), "off" (nothing is recorded) or "signed-out".
   */
  constructor(url, { onMessage, onState }) {
    this.#url = url;
    this.#onMessage = onMessage;
    this.#onState = onState;
    addEventListener("online", () => this.retryNow());
    addEventListener("offline", () => this.#lost());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.retryNow();
    });
    // A page kept in the back/forward cache comes back with a closed socket.
    addEventListener("pagehide", () => this.#drop());
    addEventListener("pageshow", (event) => {
      if (event.persisted) this.open();
    });
  }

  open() {
    this.#drop();
    this.#onState("connecting", 0);
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#watch(OPENING);
    socket.addEventListener("message", (event) => {
      if (socket === this.#socket) this.#received(event.data);
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#lost(event.code);
    });
  }

  /** Do not wait any longer, if waiting. */
  retryNow() {
    if (this.#socket === null && this.#timer !== 0) this.open();
  }

  #received(text) {
    this.#watch(SILENCE);
    if (this.#attempt !== -1) {
      this.#attempt = -1;
      this.#onState("live", 0);
    }
    this.#onMessage(JSON.parse(text));
  }

  #lost(code = 0) {
    if (this.#socket === null) return;
    this.#drop();
    this.#attempt = Math.max(0, this.#attempt + 1);
    const wait = code === COLLECTION_OFF ? LONGEST_WAIT : backoff(this.#attempt);
    this.#timer = setTimeout(() => this.open(), wait);
    this.#onState(code === COLLECTION_OFF ? "off" : "waiting", wait);
    if (code !== COLLECTION_OFF && this.#attempt > 0) this.#checkSession();
  }

  /** A refused handshake says nothing to a page: ask with a request that does. */
  async #checkSession() {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (answer.status === 401) {
        this.#drop();
        this.#onState("signed-out", 0);
      }
    } catch {
      // The server is away: keep trying.
    }
  }

  #watch(milliseconds) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#lost(), milliseconds);
  }

  #drop() {
    clearTimeout(this.#watchdog);
    clearTimeout(this.#timer);
    this.#timer = 0;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }
}
