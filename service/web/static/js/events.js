// Server-sent events, read with fetch: unlike EventSource, it sees the heartbeats, so a lost connection is noticed.

const SILENT_MS = 2500; // the service sends something every second
const CHECK_MS = 250;
const CONNECT_MS = 8000;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8000;

/** Return the events in a text that ends with a complete event; a comment or a bare position has no data. */
export function parse(text) {
  return text.split("\n\n").filter(Boolean).map((block) => {
    const event = {id: null, name: "message", data: null};
    for (const line of block.split("\n")) {
      const colon = line.indexOf(":");
      const [field, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
      if (field === "id") {
        event.id = value;
      } else if (field === "event") {
        event.name = value;
      } else if (field === "data") {
        event.data = value;
      }
    }
    return event;
  });
}

/** The service responds, but does not permit the stream. */
class Refusal extends Error {}

/** A stream that connects again behind the last event, with growing pauses. */
export class Events {
  #url;
  #handlers;
  #cursor = null;
  #abort = null;
  #heardAt = 0;
  #state = "connecting";
  #timer = 0;

  /**
   * @param {string} url
   * @param {{event: (data: any) => void, state: (state: "live" | "lost" | "refused", reason?: string) => void}} handlers
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  /** Connect. Without `fresh`, behind the last event that was received. */
  start({fresh = false} = {}) {
    this.stop();
    this.#cursor = fresh ? null : this.#cursor;
    this.#abort = new AbortController();
    this.#heardAt = performance.now();
    this.#timer = setInterval(() => this.#check(), CHECK_MS);
    this.#run(this.#abort.signal);
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
    clearInterval(this.#timer);
  }

  #set(state, reason) {
    if (state !== this.#state || reason) {
      this.#state = state;
      this.#handlers.state(state, reason);
    }
  }

  #check() {
    if (performance.now() - this.#heardAt > SILENT_MS && this.#state !== "refused") {
      this.#set("lost");
    }
  }

  async #run(signal) {
    let pause = FIRST_PAUSE_MS;
    while (!signal.aborted) {
      const attempt = new AbortController();
      const stop = () => attempt.abort();
      signal.addEventListener("abort", stop, {once: true});
      try {
        await this.#receive(attempt);
        pause = FIRST_PAUSE_MS;
      } catch (error) {
        // Not there, or lost; `#check` reports the latter.
        if (this.#state === "refused" && !signal.aborted && !(error instanceof Refusal)) {
          this.#set("lost");
        }
      }
      signal.removeEventListener("abort", stop);
      attempt.abort();
      if (!signal.aborted) {
        await new Promise((resolve) => setTimeout(resolve, pause * (1 + Math.random() / 4)));
        pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      }
    }
  }

  async #receive(attempt) {
    let limit = setTimeout(() => attempt.abort(), CONNECT_MS);
    try {
      const headers = {
        Accept: "text/event-stream",
        "X-Background": "1", // a page that is left open does not keep the session from ending
        "X-Page-Language": document.documentElement.lang,
        ...(this.#cursor ? {"Last-Event-ID": this.#cursor} : {}),
      };
      const response = await fetch(this.#url, {headers, signal: attempt.signal, cache: "no-store"});
      if (!response.ok) {
        await this.#refused(response);
        return;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const {done, value} = await reader.read();
        if (done) {
          return;
        }
        clearTimeout(limit);
        limit = setTimeout(() => attempt.abort(), SILENT_MS);
        this.#heardAt = performance.now();
        this.#set("live");
        rest += value;
        const end = rest.lastIndexOf("\n\n") + 2;
        if (end > 1) {
          this.#handle(parse(rest.slice(0, end)));
          rest = rest.slice(end);
        }
      }
    } finally {
      clearTimeout(limit);
    }
  }

  #handle(events) {
    for (const event of events) {
      if (event.data !== null && event.name === "message") {
        this.#handlers.event(JSON.parse(event.data));
      }
      this.#cursor = event.id ?? this.#cursor;
    }
  }

  async #refused(response) {
    if (response.status === 401) {
      location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    }
    const problem = await response.json().catch(() => ({}));
    if (response.status === 422) {
      this.#cursor = null; // of another database
    }
    const reason = problem.detail ?? `HTTP ${response.status}`;
    // Of a service that stops, and of a proxy whose service is stopped, the reason is of no use to a person.
    const isDown = [502, 504].includes(response.status) || problem.type?.endsWith("#shutting-down");
    this.#set(isDown ? "lost" : "refused", reason);
    throw new Refusal(reason);
  }
}
