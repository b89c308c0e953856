// The live connection: opens it, notices when it is dead, opens it again. Knows nothing of what it
// says. A WebSocket where there can be one; else Server-Sent Events; else it asks every few seconds.

import { DASHBOARD, socketAddress } from "./addresses.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;
// The server says something at least every 10 s.
const SILENCE = 25_000;
const OPENING = 8_000;
const POLLS = 3_000;
const COLLECTION_OFF = 4503;

/**
 * Exponential backoff with jitter: half of the wait is certain, half is chance, so that the pages
 * of a restarted server do not all come back in the same instant.
 */
export function backoff(attempt, random = Math.random()) {
  const most = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** attempt);
  return most / 2 + (most / 2) * random;
}

/** The messages of one WebSocket. Each way has `onmessage(message)`, `onend(code)` and `close()`. */
class SocketWay {
  name = "";

  constructor(parameters) {
    this.socket = new WebSocket(socketAddress(parameters));
    this.socket.onmessage = (event) => this.onmessage(JSON.parse(event.data));
    this.socket.onclose = (event) => this.onend(event.code);
  }

  close() {
    const { socket } = this;
    socket.onclose = socket.onmessage = null;
    // To close it while it opens is an error in the eyes of the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
  }
}

/** The same messages, as Server-Sent Events. */
class EventsWay {
  name = "WebSockets are not let through: by Server-Sent Events";

  constructor(parameters) {
    this.parameters = parameters;
    this.source = new EventSource(new URL(`events?${parameters}`, DASHBOARD));
    this.source.onerror = () => this.onend(0);
    this.source.onmessage = (event) => this.onmessage(JSON.parse(event.data));
  }

  close() {
    this.source.onmessage = this.source.onerror = null;
    this.source.close();
  }
}

/** A snapshot every few seconds: passes every proxy there is. */
class PollingWay {
  name = "WebSockets and events are not let through: every three seconds";

  constructor(parameters) {
    this.parameters = parameters;
    this.timer = setTimeout(() => this.ask(), 0);
  }

  async ask() {
    const found = await snapshot(this.parameters);
    if (this.timer === 0) return;
    if (!found.message) return this.onend(0);
    this.onmessage(found.message);
    this.timer = setTimeout(() => this.ask(), POLLS);
  }

  close() {
    clearTimeout(this.timer);
    this.timer = 0;
  }
}

const WAYS = [SocketWay, EventsWay, PollingWay];

async function snapshot(parameters) {
  try {
    const answer = await fetch(new URL(`snapshot?${parameters}`, DASHBOARD), { cache: "no-store" });
    return { status: answer.status, message: answer.ok ? await answer.json() : null };
  } catch {
    return { status: 0, message: null }; // the server is away
  }
}

export class Connection {
  #onMessage;
  #onState;
  #way = null;
  #next = 0;
  #timer = 0;
  #watchdog = 0;
  #attempt = 0;
  #opened = 0;
  #hadSocket = false;
  #parameters = "";

  /**
   * `onMessage(message)` gets each parsed message; `onState(state, waitMs)` gets "connecting",
   * "live" (with the way, where it is not a WebSocket), "waiting" (reconnects in waitMs), "off"
   * (nothing is recorded) or "signed-out".
   */
  constructor({ onMessage, onState }) {
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

  /** Listens for what the page with these `parameters` shows. */
  open(parameters = this.#parameters) {
    this.#parameters = parameters;
    this.#drop();
    if (this.#attempt !== -1) this.#onState("connecting", 0);
    const way = new WAYS[this.#next](parameters);
    this.#way = way;
    this.#opened += 1;
    this.#watch(OPENING);
    way.onmessage = (message) => {
      if (way === this.#way) this.#received(message);
    };
    way.onend = (code) => {
      if (way === this.#way) this.#lost(code);
    };
  }

  /** Asks for everything anew: another page is shown. */
  again() {
    if (this.#way !== null) this.open();
  }

  /** Do not wait any longer, if waiting. */
  retryNow() {
    if (this.#way === null && this.#timer !== 0) this.open();
  }

  #received(message) {
    this.#watch(SILENCE);
    if (this.#attempt !== -1) {
      this.#attempt = -1;
      this.#hadSocket ||= this.#way instanceof SocketWay;
      this.#onState("live", 0, this.#way.name);
    }
    this.#onMessage(message);
  }

  #lost(code = 0) {
    if (this.#way === null) return;
    this.#drop();
    if (code === COLLECTION_OFF) {
      this.#wait(LONGEST_WAIT, "off");
      return;
    }
    const neverLive = this.#attempt !== -1;
    this.#attempt = Math.max(0, this.#attempt + 1);
    this.#wait(backoff(this.#attempt), "waiting");
    if (neverLive) this.#findOut();
    else this.#next = 0;
  }

  #wait(milliseconds, state) {
    this.#timer = setTimeout(() => this.open(), milliseconds);
    this.#onState(state, milliseconds);
  }

  /** A refused connection says nothing to a page: ask with a request that does. */
  async #findOut() {
    const opened = this.#opened;
    const { status } = await snapshot(this.#parameters);
    if (opened !== this.#opened) return;
    if (status === 401) {
      this.#drop();
      this.#onState("signed-out", 0);
    } else if (status === 200) {
      // It is there, and what is between us lets this way not through.
      // Where it once did, the server has just come back.
      if (!this.#hadSocket) this.#next = Math.min(this.#next + 1, WAYS.length - 1);
      this.open();
    } else {
      this.#next = 0;
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
    this.#way?.close();
    this.#way = null;
  }
}
